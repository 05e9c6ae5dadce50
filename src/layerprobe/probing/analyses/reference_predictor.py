"""Reference predictors: fitted beside the linear head, they predict the property as it does, and are compared."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.analyses.analysis import AbstractAnalysis, LayerData, Metric, Reading, TestSet
from layerprobe.probing.features.row_blocks import AbstractRows, Features
from layerprobe.probing.tasks.task import AbstractTask

Train: TypeAlias = Float[Tensor, "m d"] | AbstractRows | None
"""Training features, where something reads them to predict."""


@dataclass(frozen=True, eq=False)
class FittedReading:
    """What reads the test sets, with what was fitted: it can be kept, and scores other samples later.

    Attributes:
        parts: What was fitted, by name.
        read: What reads the test sets, by `AbstractReference.scores` of these parts.
    """

    parts: Mapping[str, Tensor]
    read: Reading

    def __call__(self, test_sets: Mapping[str, TestSet]) -> Iterable[Metric]:
        """Read the test sets."""
        return self.read(test_sets)


class AbstractReference(AbstractAnalysis):
    """An analysis that predicts the property itself, as a reference beside the linear head."""

    @property
    def needs_train(self) -> bool:
        """Whether it reads its training features to predict, and they are not among the parts."""
        return False

    @classmethod
    @abstractmethod
    def scores(
        cls, parts: Mapping[str, Tensor], features: Features, task: AbstractTask, train: Train = None
    ) -> Float[Tensor, "n c"]:
        """Score samples as a linear head would, the test samples whose error is recorded and any others.

        Args:
            parts: What `fit` has kept in its `FittedReading`, where the features are.
            features: Features as those of `LayerData`, or its positions where it asks for them.
            task: What kind of property is predicted.
            train: Its training features, as those of `LayerData`, where `needs_train`.
        """


def compared(scores: Float[Tensor, "n c"], layer: LayerData, name: str, test: TestSet) -> Iterator[Metric]:
    """Measure a reference on a test set, and the linear head against it.

    Yields:
        `error`, and `error_difference`: the linear head's error less the reference's, what the reference reads of the
        layer and a linear head does not; both with their 95 % interval. The head is the one fitted to train alone, as
        the reference is. References weigh every sample alike and are chosen by error: where the head is fitted with
        class weights, or chosen by another figure than error or loss, the difference would be that of the aims, and
        there is none.
    """
    task, targets = layer.task, test.targets.to(scores.device)
    low, high = task.interval(scores, targets)
    yield Metric("error", task.error(scores, targets), low, high, test_set=name)
    if task.class_weight is not None or layer.head.selection not in ("error", "loss"):
        return
    linear = layer.head.heads.to(test.features.device).scores(test.features).to(scores.device)
    value, low, high = task.difference(linear, scores, targets)
    yield Metric("error_difference", value, low, high, test_set=name)
