"""Analyses, as the pipeline sees them: what else is asked of a layer whose linear head is chosen."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from layerprobe.probing.features.row_blocks import AbstractRows, Features
from layerprobe.probing.head_path import HeadPath
from layerprobe.probing.targets import Labels
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.task import AbstractTask


@dataclass(frozen=True)
class Metric:
    """One number that an analysis comes to.

    Attributes:
        metric: What was measured, such as `error`.
        value: The number.
        low: Lower end of its 95 % interval; NaN where there is none.
        high: Upper end; likewise.
        test_set: The test set that was read; empty where none was.
        head: What was measured, where an analysis has several heads; by default the analysis's name.
        n_train: Training samples that it rests on; by default all.
    """

    metric: str
    value: float
    low: float = math.nan
    high: float = math.nan
    test_set: str = ""
    head: str = ""
    n_train: int | None = None


@dataclass(frozen=True, eq=False)
class LayerPositions:
    """The positions of a layer, such as its tokens, one after the other in each row; see `Positions`.

    Attributes:
        train: Those of training samples, each channel standardised over all positions; never written to.
        val: Those of validation samples, likewise; None where there is no validation split.
        n: Positions in a row, each of which has the channels and 1, or 0 where the sample has no such position.
    """

    train: Features
    val: Float[Tensor, "v k"] | AbstractRows | None
    n: int


@dataclass(frozen=True, eq=False)
class LayerData:
    """What an analysis may learn from: training and validation samples, never those of test.

    Attributes:
        train: Training features, standardised as the selected head sees them; never written to.
        val: Validation features, likewise; None where there is no validation split.
        labels: Targets of these splits.
        head: The selected linear head, as a path of one.
        task: What kind of property the targets are.
        l2: L2 values of the sweep, in any order.
        seed: Seed of whatever the analysis draws, from a generator of its own.
        positions: The layer's positions; None where the analysis does not ask for them.
    """

    train: Features
    val: Float[Tensor, "v d"] | AbstractRows | None
    labels: Labels
    head: HeadPath
    task: AbstractTask
    l2: tuple[float, ...]
    seed: int
    positions: LayerPositions | None = None


@dataclass(frozen=True, eq=False)
class TestSet:
    """One test set of a layer.

    Attributes:
        features: Its features, standardised as the selected head sees them; never written to.
        targets: Its targets, as in `Labels.splits`.
        correct: Whether the selected head is right, for each sample; empty where a prediction is not right or wrong.
        positions: Its positions, as in `LayerPositions`; None where the analysis does not ask for them.
    """

    __test__ = False  # no class of tests, whatever pytest makes of the name

    features: Features
    targets: Shaped[Tensor, "n ..."]
    correct: Bool[Tensor, " _"]
    positions: Float[Tensor, "n k"] | AbstractRows | None = None


Reading: TypeAlias = Callable[[Mapping[str, TestSet]], Iterable[Metric]]
"""What is left of an analysis when it is fitted: it reads the test sets, by their names, once."""


class AbstractAnalysis(ABC):
    """Asks something else of a layer's features than the test error of their linear head."""

    name: ClassVar[str]
    needs_classes: ClassVar[bool] = False
    """Whether it says nothing of labels and numbers."""
    needs_val: ClassVar[bool] = False
    """Whether it chooses by validation, and so cannot do without."""
    positions: int = 0
    """How many positions of a layer, such as tokens, it reads beside the linear head's features; 0 for none."""

    def check(self, task: AbstractTask) -> None:
        """Refuse a task that it says nothing of.

        Raises:
            ValueError: Naming both.
        """
        if self.needs_classes and not isinstance(task, Classification):
            raise ValueError(f"`{self.name}` needs classes, found the task {task.name}. Leave it out of `analyses`.")

    @abstractmethod
    def fit(self, layer: LayerData) -> Reading:
        """Learn from train, and choose by validation; what comes of it reads the test sets."""
