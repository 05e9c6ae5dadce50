"""The seam for solvers that see each sample as it passes by and keep none."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.solvers.solution import Solution
from layerprobe.probing.solvers.solver import AbstractSolver


class AbstractStream(ABC):
    """One layer's fit while the samples pass by."""

    @abstractmethod
    def see(self, features: Float[Tensor, "b d"], targets: Int[Tensor, " b"]) -> None:
        """Learn from a batch.

        Args:
            features: Features as the reducer made them, not standardised.
            targets: Class indices, any non-negative integers.
        """

    @abstractmethod
    def end_pass(self) -> None:
        """Take note that every sample has been seen once more."""

    @abstractmethod
    def finish(self, classes: Int[Tensor, " c"]) -> tuple[Solution, Standardiser]:
        """What has been learnt.

        Args:
            classes: The class indices, in the order of the heads' outputs.

        Returns:
            Heads for standardised features, one for each L2 value, and the standardiser.
        """


class AbstractStreamingSolver(AbstractSolver):
    """A solver whose memory does not grow with the number of samples."""

    @property
    @abstractmethod
    def n_passes(self) -> int:
        """How often it has to see every sample."""

    @abstractmethod
    def stream(self, n_features: int, l2: Float[Tensor, " p"], device: torch.device) -> AbstractStream:
        """Begin a fit.

        Args:
            n_features: Number of features.
            l2: L2 values, in any order; the solution has the same order.
            device: Where the features will be.

        Returns:
            What the samples are shown to, `n_passes` times.
        """

    def run(
        self, features: Features, targets: Int[Tensor, " n"], n_classes: int, l2: Float[Tensor, " p"], batch_size: int
    ) -> Solution:
        """Fit to features that are there, as if they passed by in random order.

        Args:
            features: As for `solve`.
            targets: As for `solve`.
            n_classes: As for `solve`.
            l2: As for `solve`.
            batch_size: Samples in a batch. Of features that are not in memory, whole batches are shuffled.

        Returns:
            The heads, for the features as they are given.
        """
        n, generator = len(features), torch.Generator().manual_seed(0)
        stream = self.stream(features.shape[1], l2, features.device)
        for _ in range(self.n_passes):
            if isinstance(features, Tensor):
                for rows in torch.randperm(n, generator=generator).split(batch_size):
                    stream.see(features[rows], targets[rows])
            else:
                for i in torch.randperm(-(-n // batch_size), generator=generator).tolist():
                    part = slice(i * batch_size, min((i + 1) * batch_size, n))
                    stream.see(features[part], targets[part])
            stream.end_pass()
        solution, standardiser = stream.finish(torch.arange(n_classes))
        weight = solution.weight / standardiser.scale
        bias = solution.bias - (weight * standardiser.mean).sum(-1)
        return Solution(weight, bias, solution.objective, solution.gap, solution.iterations, solution.status)
