"""Solvers, as the pipeline sees them: whatever fits linear heads to features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.solvers.solution import Solution
from layerprobe.probing.solvers.spectrum import Spectrum

Stop: TypeAlias = Callable[[Float[Tensor, "c d"], Float[Tensor, " c"]], bool]
"""Shown each head, from the strongest penalty to the weakest; true where the values that are left are not wanted."""


Decompose: TypeAlias = Callable[[], Spectrum]
"""Hands over the spectrum of the features; asked by those who need it."""


def of_mean_one(weights: Float[Tensor, " c"], targets: Int[Tensor, " n"]) -> Float[Tensor, " c"]:
    """Scale weights of classes so that their mean over the samples is 1: a sum over n·mean is a mean then.

    Args:
        weights: What a sample of each class counts.
        targets: Class indices.

    Returns:
        The weights, float64, on the targets' device.
    """
    weights = weights.to(targets.device, torch.float64)
    return weights / weights[targets].mean()


class AbstractSolver(ABC):
    """Fits the whole L2 path of one linear head to standardised features."""

    name: ClassVar[str]

    @abstractmethod
    def solve(
        self,
        features: Features,
        targets: Int[Tensor, " n"],
        n_classes: int,
        l2: Float[Tensor, " p"],
        spectrum: Decompose | None = None,
        stop: Stop | None = None,
        rough: bool = False,
        weights: Float[Tensor, " c"] | None = None,
    ) -> Solution:
        """Fit one head for each L2 value.

        Args:
            features: Standardised features of the training split, float32 or float64; never written to.
            targets: Class indices in `[0, n_classes)`.
            n_classes: Number of classes, also those without a training sample.
            l2: L2 values, in any order; the solution has the same order.
            spectrum: Hands over the features' spectrum where the caller keeps it; computed here otherwise.
            stop: Ends the path once it is true of a head: the values that are left are `skipped`. A solver that has
                all heads at once pays nothing for them and does not ask.
            rough: Whether values may be left at a rough gap, with the status `rough`; `Solution.certify` then brings
                those that are wanted further. A solver to which precision costs nothing does not ask.
            weights: What a sample of each class counts in the mean of the losses, float64, positive; only their ratios
                matter. None, for which it may not be given at all, where every sample counts the same.

        Returns:
            The heads, with a status for each.
        """

    @abstractmethod
    def losses(self, scores: Float[Tensor, "n c"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the loss that the solver minimises, for each sample.

        Args:
            scores: Scores of the classes.
            targets: Class indices.

        Returns:
            Loss of each sample.
        """

    @abstractmethod
    def ranking(self, scores: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Say what orders samples by the probability of each class.

        Args:
            scores: Scores of the classes.

        Returns:
            For each class, a number that grows with its probability and can be compared between samples.
        """
