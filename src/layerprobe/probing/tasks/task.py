"""Tasks, as the pipeline sees them: the kinds of property that a probe can predict."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.heads import Heads
from layerprobe.probing.metrics.score_metrics import Scored
from layerprobe.probing.solvers.solution import Solution
from layerprobe.probing.solvers.solver import AbstractSolver, Decompose, Stop
from layerprobe.probing.solvers.spectrum import Spectrum
from layerprobe.probing.targets import Labels
from layerprobe.probing.tasks.class_weights import ClassWeight
from layerprobe.types import Split

Figure: TypeAlias = Callable[[AbstractSolver, Float[Tensor, "n c"], Shaped[Tensor, "n ..."]], float]
"""A figure, the smaller the better, from what fitted a head, its scores on a split, and the split's targets."""


@dataclass(frozen=True)
class Measured:
    """Figures of a head on a split that had no part in fitting or choosing it.

    Attributes:
        error: The task's error.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        loss: The mean loss.
        correct: Whether the head is right, for each sample; empty where a prediction is not right or wrong.
        f1: See `f1_score`; NaN where the task has none.
        auc: See `roc_auc`; NaN where the task has none.
        r2: Coefficient of determination; NaN where the task has none.
        message: What a reader of these figures has to know; empty where there is nothing.
    """

    error: float
    low: float
    high: float
    loss: float
    correct: Bool[Tensor, " n"]
    f1: float = math.nan
    auc: float = math.nan
    r2: float = math.nan
    message: str = ""


@dataclass(frozen=True, eq=False)
class PathFit:
    """What the heads of a path are fitted to, but for the targets.

    Attributes:
        features: Standardised features of the training split.
        l2: L2 values.
        spectrum: Hands over the features' spectrum.
        stop: See `AbstractSolver.solve`.
        rough: See `AbstractSolver.solve`.
    """

    features: Features
    l2: Float[Tensor, " p"]
    spectrum: Decompose
    stop: Stop | None = None
    rough: bool = False

    @classmethod
    def of(cls, features: Features, l2: Sequence[float]) -> PathFit:
        """Return a whole path, every value brought to its certificate."""
        return cls(features, torch.tensor(l2, dtype=torch.float64), cache(partial(Spectrum.of, features)))

    def solve(
        self, solver: AbstractSolver, targets: Int[Tensor, " n"], n_classes: int, weights: Float[Tensor, " c"] | None
    ) -> Solution:
        """Fit classes; see `AbstractSolver.solve`, which may know of no weights."""
        counted: dict[str, Any] = {} if weights is None else {"weights": weights}
        return solver.solve(self.features, targets, n_classes, self.l2, self.spectrum, self.stop, self.rough, **counted)


class AbstractTask(ABC):
    """Reads targets, fits linear heads to them, and says how wrong these are."""

    name: ClassVar[str]
    figures: ClassVar[Mapping[str, Figure]] = MappingProxyType({})
    """What a head may be chosen by besides error and loss."""
    class_weight: ClassWeight | None = None
    """What a training sample counts in the fit, by its class; None where all count alike."""

    @abstractmethod
    def check(self, solver: AbstractSolver) -> None:
        """Refuse a solver that cannot fit this task.

        Raises:
            ValueError: Naming the solver and one that can.
        """

    @abstractmethod
    def read(self, targets: Any, split: Split) -> Shaped[Tensor, "n ..."]:
        """Check one batch's targets, and put them on the CPU, samples first.

        Raises:
            TypeError: Where they are not what the task predicts.
        """

    @abstractmethod
    def labels(self, targets: Mapping[Split, Shaped[Tensor, "n ..."]]) -> Labels:
        """Lay out the targets of all splits as the heads see them; what is learnt from data is learnt on train.

        Raises:
            ValueError: Where there is nothing to learn.
        """

    @abstractmethod
    def n_classes(self, labels: Labels) -> int:
        """Count the classes that one head tells apart; 0 where there are none."""

    @abstractmethod
    def fits(self, outputs: int) -> tuple[int, int]:
        """Say how many fits there are to one set of labels, and the columns of each."""

    @abstractmethod
    def fit(self, solver: AbstractSolver, path: PathFit, targets: Shaped[Tensor, "n ..."], labels: Labels) -> Solution:
        """Fit one head for each L2 value, with a status for each.

        The targets are on the features' device. A task whose heads are several fits at once does not ask whether to
        stop.
        """

    @abstractmethod
    def evaluate(
        self, heads: Heads, features: Features, targets: Shaped[Tensor, "n ..."], solver: AbstractSolver
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """Apply every head of a path to one split: each head's error and its mean loss, float64."""

    @abstractmethod
    def measure(
        self, heads: Heads, features: Features, targets: Shaped[Tensor, "n ..."], solver: AbstractSolver
    ) -> Measured:
        """Measure the selected head on test."""

    @abstractmethod
    def predict(self, scores: Float[Tensor, "n c"], extra: Mapping[str, Tensor]) -> Shaped[Tensor, "n ..."]:
        """Return what a head answers, in the terms of the targets that it was fitted to.

        Returns:
            A class, a row of labels or a row of values for each sample.
        """

    @abstractmethod
    def constant_error(self, labels: Labels) -> float:
        """Return the test error of the best constant answer that train knows."""

    @abstractmethod
    def losses(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Compute the loss of each sample, which a reference is trained by; classes that train lacks cost nothing."""

    @abstractmethod
    def slopes(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n c"]:
        """Return the derivatives of each sample's loss by its scores."""

    @abstractmethod
    def vote(self, neighbours: Shaped[Tensor, "n k ..."], outputs: int) -> Float[Tensor, "n c"]:
        """Score samples by the targets of their neighbours."""

    @abstractmethod
    def error(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> float:
        """Return the task's error."""

    @abstractmethod
    def interval(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> tuple[float, float]:
        """Return the 95 % interval of `error`."""

    @abstractmethod
    def difference(
        self, scores: Float[Tensor, "n c"], other: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]
    ) -> tuple[float, float, float]:
        """Return the error of some scores less that of others, with the 95 % interval for the same samples.

        Returns:
            The difference, the lower and the upper end.
        """


def unweighted(task: AbstractTask) -> AbstractTask:
    """Return the same task, every training sample of which counts alike."""
    return task if task.class_weight is None else replace(cast(Any, task), class_weight=None)


class AbstractScoredTask(AbstractTask):
    """A task whose answers are right or wrong, of whose scores `score_metrics` makes metrics."""

    @abstractmethod
    def scored(self, solver: AbstractSolver, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> Scored:
        """Lay out a head's answers on a test set, with targets as in `Labels`."""
