"""Reference predictors: fitted beside the linear head, they predict the property as it does."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.analyses.analysis import AbstractAnalysis, Metric, Reading, TestSet
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
        """Score samples, the test samples whose error is recorded and any others.

        Args:
            parts: What `fit` has kept in its `FittedReading`, where the features are.
            features: Features as those of `LayerData`, or its positions where it asks for them.
            task: What kind of property is predicted.
            train: Its training features, as those of `LayerData`, where `needs_train`.

        Returns:
            Scores as a linear head would give them.
        """
