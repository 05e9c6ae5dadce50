"""A fitted head of one layer: it predicts, and says what it looks for in the layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerprobe.formatting import interval_text, nearest, percent_text
from layerprobe.probing.analyses.analysis import AbstractAnalysis
from layerprobe.probing.analyses.attention import Attention as Attention
from layerprobe.probing.analyses.erasers import erased_activation, fit_eraser
from layerprobe.probing.analyses.mean_difference import MeanDifference as MeanDifference
from layerprobe.probing.analyses.mlp import MLP as MLP
from layerprobe.probing.analyses.nearest_mean import NearestMean as NearestMean
from layerprobe.probing.analyses.nearest_neighbours import NearestNeighbours as NearestNeighbours
from layerprobe.probing.analyses.reference_predictor import AbstractReference
from layerprobe.probing.capture.pytree import tensors
from layerprobe.probing.capture.replacement import replaced
from layerprobe.probing.capture.token_axes import attention_masks, span_masks
from layerprobe.probing.data_adapters import is_source
from layerprobe.probing.features.feature_store import FeatureStore, FeatureStoreError
from layerprobe.probing.features.positions import Positions as Positions
from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.features.scaler import StandardisedRows, Standardiser
from layerprobe.probing.heads import Heads
from layerprobe.probing.inference_features import fitted_reduction, layer_of, recorded_features, reduced_features
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.precision import full_precision
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.multi_label import MultiLabel
from layerprobe.probing.tasks.regression import Regression
from layerprobe.probing.tasks.task import AbstractTask
from layerprobe.statistics.directions import directions, in_own_units
from layerprobe.types import FeatureRecipe, LayerName, LayerResult, ProbeRecord, named_classes

Numbers: TypeAlias = Tensor | np.ndarray
"""A tensor where a tensor, or several, were given; else an array."""

TASKS = (Classification, MultiLabel, Regression)
"""The tasks that are known without the import of another module."""


class AbstractHead(ABC):
    """What predicts the property from one layer.

    `predict` and `decision_function` take a network and its inputs (the layer is recorded and reduced as when the head
    was fitted), or what was recorded of the layer before. The network's weights may be others than those that the head
    was fitted to, such as those of another training step.

    Attributes:
        record: The layer's record: what the selected linear head is, and its errors.
    """

    def __init__(self, result: LayerResult) -> None:
        """Take what predicts of a layer.

        Args:
            result: What probing the layer has left behind.
        """
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
        """Scores of features that are not standardised."""

    @property
    def classes(self) -> np.ndarray:
        """What the rows of the weights and the columns of the scores stand for: classes, or places of labels or values.

        Classes are words where the targets were words.
        """
        names = self._arrays.get("classes", np.arange(len(self._arrays["bias"])))
        words = self._words
        return np.array([words[name] for name in names]) if words and "classes" in self._arrays else names

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
            return _like(inputs, found[0 : len(found)].clone())

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
            return _like(given, numbers)

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
            return _like(given, found)

    @contextmanager
    def _scored(
        self, network: Any, inputs: Any, mask: Any, batch_size: int | None
    ) -> Iterator[tuple[Float[Tensor, "n c"], Any]]:
        """The scores, and what they were made of."""
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
        extra = {name: torch.from_numpy(values) for name, values in self._arrays.items() if name not in _LINEAR}
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


@final
class ProbeHead(AbstractHead):
    """The selected head of one layer; see `AbstractHead` for what it predicts from."""

    def __repr__(self) -> str:
        record = self.record
        interval = interval_text(record.test_error_low, record.test_error_high)
        error = f"{percent_text(record.test_error)}{f' [{interval}]' if interval else ''}"
        return f"ProbeHead({record.layer}: {record.task}, {record.reduction}, test error {error})"

    @property
    def weight(self) -> Float[np.ndarray, "c d"]:
        """Weights in the features' own units, the standardisation undone: scores are features @ weight.T + bias.

        Of a regression, in the units of its targets too.
        """
        return in_own_units(self._arrays)[0]

    @property
    def bias(self) -> Float[np.ndarray, " c"]:
        """Bias in the features' own units; see `weight`."""
        return in_own_units(self._arrays)[1]

    @property
    def direction(self) -> Float[np.ndarray, "*c d"]:
        """Where the head looks in the features' own units: from the first of two classes to the second; else rows.

        With more than two classes a row is a class against the mean of all, with several labels or values one of these.
        Its length is in scores for each unit; divide by its norm for a unit vector.
        """
        rows = directions(self._arrays, self.record.task)
        return rows[0] if len(rows) == 1 else rows

    @property
    def wrong(self) -> np.ndarray:
        """The test samples that it gets wrong (one label at least).

        They are their ids where scores are kept, else their places in the test split, or in the data where these were
        divided.

        Raises:
            ValueError: Of a regression, which is never right or wrong.
        """
        if self.record.task == Regression.name:
            raise ValueError("A regression is not right or wrong on a sample. Compare `predict` with the targets.")
        return self._result.sample_ids[~self._result.correct]

    def predict_proba(
        self, network: nn.Module | Any, inputs: Any = None, *, mask: Any = None, batch_size: int | None = None
    ) -> Numbers:
        """Predict probabilities, from what `decision_function` takes.

        Returns:
            The probability of each class (n c), in the order of `classes`; or of each label.

        Raises:
            ValueError: As `decision_function`; or the head is no logistic regression.
        """
        if self.record.solver != Logistic.name:
            raise ValueError(
                f"The head of {self.record.layer!r} was fitted by {self.record.solver}, which has no probabilities. "
                "Take `decision_function`, or probe with solver='logistic'."
            )
        with self._scored(network, inputs, mask, batch_size) as (scores, given):
            wide = scores.double()
            # A label's score is that of having it less that of not having it.
            return _like(given, wide.sigmoid() if self.record.task == MultiLabel.name else wide.softmax(1))

    @property
    def references(self) -> ReferenceHeads:
        """What was fitted beside it and predicts, such as `mlp`, by the name of the analysis; see `ReferenceHead`."""
        return ReferenceHeads(self._result)

    @contextmanager
    def erased(
        self, network: nn.Module, inputs: Any, targets: Any, *, batch_size: int | None = None
    ) -> Iterator[nn.Module]:
        """Let a network run without every linear trace of the property in this layer's features.

        An eraser (LEACE, see `layerprobe.Erased`) is fitted to the features of training samples. Inside, the layer is
        changed in every forward pass by as little as makes its features the erased ones; afterwards the network is as
        it was, whatever happens. Where features are averages of the layer, what the averages do not show stays in it.

        Args:
            network: The network.
            inputs: Training inputs, as for `features`.
            targets: The property of these: classes, labels or numbers, in their order.
            batch_size: As for `features`.

        Yields:
            The network.

        Raises:
            ValueError: The package is not installed; or the layer cannot be replaced, or its features not changed.
        """
        with recorded_features(network, inputs, self.record, self._recipe, batch_size=batch_size) as found:
            eraser = fit_eraser(found, self._known(targets, len(found)))
        layer = layer_of(network, inputs, self.record, self._recipe)
        reduction = fitted_reduction(layer.shape, self.record, self._recipe)

        def change(activation: Tensor, given: Mapping[str, Any]) -> Tensor:
            masks = {name: mask != 0 for name, mask in attention_masks(given).items()} | span_masks(given)
            masks = masks if reduction.axes else {}
            with torch.autocast(activation.device.type, enabled=False):
                return erased_activation(activation, reduction, eraser, masks)

        with replaced(network, layer, change):
            yield network

    def _known(self, targets: Any, n: int) -> Tensor:
        """Targets as an eraser takes them: classes by their place."""
        values = np.asarray(targets.cpu() if isinstance(targets, Tensor) else targets)
        if len(values) != n:
            raise ValueError(f"There are {n} inputs and {len(values)} targets. Each input needs one target.")
        if self.record.task == Classification.name:
            return torch.from_numpy(np.unique(values, return_inverse=True)[1])
        return torch.from_numpy(values.astype(np.float64))

    @property
    def _made(self) -> ProbeRecord:
        return self.record

    @property
    def _known_recipe(self) -> FeatureRecipe | None:
        return self._result.recipe

    def _scores(self, features: Features) -> Float[Tensor, "n c"]:
        arrays = {name: torch.from_numpy(self._arrays[name]).to(features.device) for name in _LINEAR}
        mean, scale, weight, bias = (arrays[name] for name in _LINEAR)
        if isinstance(features, Tensor):
            features = features.to(weight.dtype)
        standardised = StandardisedRows(features, Standardiser(mean, scale, torch.zeros_like(mean, dtype=torch.bool)))
        with full_precision():
            return Heads(weight[None], bias[None]).scores(standardised)


@final
class ReferenceHead(AbstractHead):
    """What an analysis such as `mlp` has fitted beside the linear head of a layer; see `AbstractHead`.

    Attributes:
        name: Name of the analysis.
        record: As in `AbstractHead`; the reference's own errors are in `ProbeResults.metrics`.
    """

    def __init__(self, result: LayerResult, name: str) -> None:
        """Take a reference of a layer.

        Args:
            result: What probing the layer has left behind.
            name: Name of the analysis.
        """
        super().__init__(result)
        self.name = name
        self._reference = result.references[name]

    def __repr__(self) -> str:
        rows = (row for row in self._result.metrics if (row.head, row.metric) == (self.name, "error"))
        errors = (f"{row.test_set} error {percent_text(row.value)}" for row in rows)
        return f"ReferenceHead({', '.join((f'{self.record.layer}: {self.name}', *errors))})"

    @property
    def _made(self) -> ProbeRecord:
        made = self._reference
        return replace(self.record, reducer=made.reducer, reduction=made.reduction, n_features=made.n_features)

    @property
    def _known_recipe(self) -> FeatureRecipe | None:
        own, of_head = self._reference.recipe, self._result.recipe
        return of_head if own is None or of_head is None else replace(own, autocast=of_head.autocast)

    def _scores(self, features: Features) -> Float[Tensor, "n c"]:
        known = named_classes(AbstractReference)
        if self.name not in known:
            raise ValueError(
                f"The reference {self.name!r} is not known here. Import the module that defines it. "
                f"{nearest(self.name, known)}"
            )
        parts = {part: torch.from_numpy(values).to(features.device) for part, values in self._reference.arrays.items()}
        # Of positions there is one standardisation for all.
        times = features.shape[1] // len(parts["mean"])
        standardiser = Standardiser(*(parts.pop(part).repeat(times) for part in ("mean", "scale", "constant")))
        if isinstance(features, Tensor):
            features = features.to(standardiser.mean.dtype)
        train = None
        if self._reference.train_features is not None:
            train = StandardisedRows(self._train_features(self._reference.train_features, features), standardiser)
        with full_precision():
            found: Tensor = known[self.name].scores(parts, StandardisedRows(features, standardiser), self._task, train)
        return found

    def _train_features(self, file: str, features: Features) -> Tensor:
        where = f"`{self.name}` reads the features of the training samples of {self.record.layer!r} to predict"
        again = "Probe with keep=DIR (probe.keep=true in a run), which keeps them"
        if not file:
            raise ValueError(f"{where}, and they were not kept. {again}.")
        try:
            entry = FeatureStore(Path(file).parent.parent).find(Path(file))
        except (FeatureStoreError, OSError) as error:
            raise ValueError(f"{where}: {error} {again}.") from error
        if entry is None:
            raise ValueError(f"{where}; they are not in {file} any more. {again}, or put the folder back.")
        return entry[0].to(features.device, features.dtype)


class ReferenceHeads(Mapping[str, ReferenceHead]):
    """What was fitted beside the linear head of a layer and predicts, by the name of the analysis."""

    def __init__(self, result: LayerResult) -> None:
        """Take the references of a layer.

        Args:
            result: What probing the layer has left behind.
        """
        self._result = result

    def __getitem__(self, name: str) -> ReferenceHead:
        if name in self._result.references:
            return ReferenceHead(self._result, name)
        analyses, predicting = named_classes(AbstractAnalysis), list(named_classes(AbstractReference))
        if name in analyses and name not in predicting:
            raise KeyError(f"The analysis {name!r} predicts nothing. These do: {', '.join(predicting)}.")
        if name not in analyses:
            raise KeyError(f"No analysis {name!r} is known. {nearest(str(name), predicting)}")
        there = ", ".join(self._result.references) or "none"
        raise KeyError(
            f"No {name!r} of the layer {self._result.record.layer!r} is kept; there are: {there}. Probe its checkpoint "
            f"again with analyses={name!r} (analysis={name} in a run); older versions kept its errors alone."
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._result.references)

    def __len__(self) -> int:
        return len(self._result.references)

    def __repr__(self) -> str:
        return "\n".join(repr(head) for head in self.values())


_LINEAR = ("mean", "scale", "weight", "bias")


class ProbeHeads(Mapping[LayerName, ProbeHead]):
    """The heads of a network's layers, by the names of these; an alias is as good."""

    def __init__(self, results: Sequence[LayerResult]) -> None:
        """Take the heads.

        Args:
            results: What probing each layer has left behind, in order of depth.
        """
        self._results = {result.record.layer: result for result in results}
        self._aliases = {
            alias: result.record.layer for result in results for alias in result.record.aliases.split(", ") if alias
        }

    def __getitem__(self, layer: LayerName) -> ProbeHead:
        found = self._results.get(self._aliases.get(layer, layer))
        if found is None:
            names = [*self._results, *self._aliases]
            raise KeyError(f"No layer {layer!r} was probed. {nearest(str(layer), names)}")
        if not found.head:
            reason = found.record.message or "its file is missing"
            raise KeyError(f"There is no head of the layer {layer!r}: {reason}.")
        return ProbeHead(found)

    def __iter__(self) -> Iterator[LayerName]:
        return (layer for layer, result in self._results.items() if result.head)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return "\n".join(repr(head) for head in self.values())


def _like(given: Any, numbers: Tensor) -> Numbers:
    """Numbers as a tensor where the given inputs hold tensors, on their device; else as an array."""
    if is_source(given):
        return numbers.cpu()
    found = tensors(given)
    return numbers.to(found[0].device) if found else numbers.cpu().numpy()
