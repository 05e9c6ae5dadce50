"""What predicts the property from one layer, by a network and its inputs or by features of the layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerprobe.formatting import nearest
from layerprobe.probing.capture.default_device import own_device
from layerprobe.probing.capture.pytree import tensors
from layerprobe.probing.data_adapters import is_source
from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.inference_features import recorded_features, reduced_features
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.multi_label import MultiLabel
from layerprobe.probing.tasks.regression import Regression
from layerprobe.probing.tasks.task import AbstractTask
from layerprobe.results.heads import outputs_of
from layerprobe.types import FeatureRecipe, LayerResult, ProbeRecord, named_classes

LINEAR = ("mean", "scale", "weight", "bias")
"""The arrays of a linear head; what else a head has is what its task answers by."""

Numbers: TypeAlias = Tensor | np.ndarray
"""A tensor where a tensor, or several, were given; else an array."""

TASKS = (Classification, MultiLabel, Regression)
"""The tasks that are known without the import of another module."""


class AbstractHead(ABC):
    """What predicts the property from one layer.

    `predict` and `decision_function` take a network and its inputs (the layer is recorded and reduced as when the head
    was fitted), or what was recorded of the layer before. The network's weights may be others than those that the head
    was fitted to, such as those of another training step.

    Args:
        result: What probing the layer has left behind.

    Attributes:
        record: The layer's record: what the selected linear head is, and its errors.
    """

    def __init__(self, result: LayerResult) -> None:
        self.record: ProbeRecord = result.record
        self._result = result

    @property
    @abstractmethod
    def _made(self) -> ProbeRecord:
        """The record, with the reduction that makes the features."""

    @property
    @abstractmethod
    def _known_recipe(self) -> FeatureRecipe | None:
        """How the features are made; None where that is not known."""

    @abstractmethod
    def _scores(self, features: Features) -> Float[Tensor, "n c"]:
        """Score features that are not standardised."""

    @property
    def classes(self) -> np.ndarray:
        """What the rows of the weights and the columns of the scores stand for: classes, or places of labels or values.

        Classes are words where the targets were words.
        """
        names = outputs_of(self._arrays)
        words = self._words
        return np.array([words[name] for name in names]) if words and "classes" in self._arrays else names

    @own_device()
    def features(self, network: nn.Module, inputs: Any, *, mask: Any = None, batch_size: int | None = None) -> Numbers:
        """Record the layer, and make its features as they were made when the head was fitted.

        Args:
            network: The network.
            inputs: Its inputs, as in the pair (inputs, targets) that `probe` takes; or a DataLoader or Dataset, read in
                the order of the data set.
            mask: Which places of a sequence hold a token, where `probe` was given a mask, too.
            batch_size: Samples in one forward pass; by default what the loader has, or 256.

        Returns:
            The features (n d), not standardised.

        Raises:
            ValueError: The network has no such layer, or another one under its name.
        """
        with recorded_features(network, inputs, self._made, self._recipe, mask=mask, batch_size=batch_size) as found:
            return like(inputs, found[0 : len(found)].clone())

    @own_device()
    def decision_function(
        self, network: nn.Module | Any, inputs: Any = None, *, mask: Any = None, batch_size: int | None = None
    ) -> Numbers:
        """Score samples.

        Args:
            network: A network, with `inputs`; or without them features (n d) that were recorded before, or activations
                (`n *shape`) of the layer.
            inputs: As for `features`.
            mask: As for `features`.
            batch_size: As for `features`.

        Returns:
            A score for each sample and class (n c), in the order of `classes`; for each label, positive where the
            sample has it; for each value, the value itself, in its own units.

        Raises:
            ValueError: As `features`; or what is given is no features of this layer.
        """
        with self._scored(network, inputs, mask, batch_size) as (scores, given):
            numbers = self._answers(scores) if self.record.task == Regression.name else scores
            return like(given, numbers)

    @own_device()
    def predict(
        self, network: nn.Module | Any, inputs: Any = None, *, mask: Any = None, batch_size: int | None = None
    ) -> Numbers:
        """Predict as when the test error was read, from what `decision_function` takes.

        Returns:
            A class for each sample (n); with several labels zeros and ones (n c); numbers (n), or (n c) of several.
            Words are in an array.

        Raises:
            ValueError: As `decision_function`.
        """
        with self._scored(network, inputs, mask, batch_size) as (scores, given):
            found = self._answers(scores)
            if self.record.task == Classification.name and (words := self._words):
                return np.array(words)[found.cpu().numpy()]
            if self.record.task == Regression.name and found.shape[1] == 1:
                found = found[:, 0]
            return like(given, found)

    @contextmanager
    def _scored(
        self, network: Any, inputs: Any, mask: Any, batch_size: int | None
    ) -> Iterator[tuple[Float[Tensor, "n c"], Any]]:
        """Return the scores, and what they were made of."""
        if isinstance(network, nn.Module):
            if inputs is None:
                raise ValueError("Give the network's inputs, too: predict(network, inputs).")
            with recorded_features(network, inputs, self._made, self._recipe, mask=mask, batch_size=batch_size) as x:
                yield self._scores(x), inputs
            return
        if inputs is not None:
            raise ValueError(
                f"Found a {type(network).__name__} in place of the network. Give a network and its inputs, or features "
                "alone."
            )
        given = network if isinstance(network, Tensor) else torch.as_tensor(np.asarray(network))
        found = reduced_features(given.detach(), self._made, self._known_recipe, mask)
        yield self._scores(found), network

    @property
    def _arrays(self) -> Mapping[str, np.ndarray]:
        return self._result.head

    def _answers(self, scores: Float[Tensor, "n c"]) -> Tensor:
        extra = {name: torch.from_numpy(values) for name, values in self._arrays.items() if name not in LINEAR}
        return self._task.predict(scores, {name: values.to(scores.device) for name, values in extra.items()})

    @property
    def _words(self) -> Sequence[str]:
        return () if self._result.recipe is None else self._result.recipe.words

    @property
    def _task(self) -> AbstractTask:
        known = named_classes(AbstractTask)
        if self.record.task not in known:
            raise ValueError(
                f"The head of {self.record.layer!r} answers the task {self.record.task!r}, which is not known here. "
                f"Import the module that defines it. {nearest(self.record.task, known)}"
            )
        found: AbstractTask = known[self.record.task]()
        return found

    @property
    def _recipe(self) -> FeatureRecipe:
        if self._known_recipe is None:
            raise ValueError(
                f"The file of the head of {self.record.layer!r} does not say how its features are made: an older "
                "version of layerprobe wrote it. Probe its checkpoint again, or give features in place of the network."
            )
        return self._known_recipe


def like(given: Any, numbers: Tensor) -> Numbers:
    """Return numbers as a tensor on the inputs' device where these hold tensors; else as an array."""
    if is_source(given):
        return numbers.cpu()
    found = tensors(given)
    return numbers.to(found[0].device) if found else numbers.cpu().numpy()
