"""A fitted head of one layer: it predicts, and says what it looks for in the layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerprobe.api.abstract_head import LINEAR, AbstractHead, Numbers, like
from layerprobe.api.reference_head import ReferenceHeads
from layerprobe.formatting import interval_text, nearest, percent_text
from layerprobe.probing.analyses.erasers import erased_activation, fit_eraser
from layerprobe.probing.capture.default_device import own_device
from layerprobe.probing.capture.replacement import replaced
from layerprobe.probing.capture.token_axes import attention_masks, span_masks
from layerprobe.probing.features.position_reducer import Positions as Positions
from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.features.scaler import StandardisedRows, Standardiser
from layerprobe.probing.heads import Heads
from layerprobe.probing.inference_features import fitted_reduction, layer_of, recorded_features
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.precision import full_precision
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.multi_label import MultiLabel
from layerprobe.probing.tasks.regression import Regression
from layerprobe.statistics.directions import directions, in_own_units
from layerprobe.types import FeatureRecipe, LayerName, LayerResult, ProbeRecord


@final
class ProbeHead(AbstractHead):
    """The selected head of one layer; see `AbstractHead` for what it predicts from."""

    def __repr__(self) -> str:
        record = self.record
        low, high = record.test_error_low, record.test_error_high
        interval = "" if math.isnan(low) or math.isnan(high) else f" [{interval_text(low, high)}]"
        error = f"{percent_text(record.test_error)}{interval}"
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

    @own_device()
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
            return like(given, wide.sigmoid() if self.record.task == MultiLabel.name else wide.softmax(1))

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

        Raises:
            ValueError: The package is not installed; or the layer cannot be replaced, or its features not changed.
        """
        with own_device():
            with recorded_features(network, inputs, self.record, self._recipe, batch_size=batch_size) as found:
                eraser = fit_eraser(found, self._known(targets, len(found)))
            layer = layer_of(network, inputs, self.record, self._recipe)
        reduction = fitted_reduction(layer.shape, self.record, self._recipe)

        def change(activation: Tensor, given: Mapping[str, Any]) -> Tensor:
            masks = {name: mask != 0 for name, mask in attention_masks(given).items()} | span_masks(given)
            masks = masks if reduction.axes else {}
            with own_device(), torch.autocast(activation.device.type, enabled=False):
                return erased_activation(activation, reduction, eraser, masks)

        with replaced(network, layer, change):
            yield network

    def _known(self, targets: Any, n: int) -> Tensor:
        """Return targets as an eraser takes them: classes by their place."""
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
        arrays = {name: torch.from_numpy(self._arrays[name]).to(features.device) for name in LINEAR}
        mean, scale, weight, bias = (arrays[name] for name in LINEAR)
        if isinstance(features, Tensor):
            features = features.to(weight.dtype)
        standardised = StandardisedRows(features, Standardiser(mean, scale, torch.zeros_like(mean, dtype=torch.bool)))
        with torch.autocast(features.device.type, enabled=False), full_precision():
            return Heads(weight[None], bias[None]).scores(standardised)


class ProbeHeads(Mapping[LayerName, ProbeHead]):
    """The heads of a network's layers, by the names of these; an alias is as good."""

    def __init__(self, results: Sequence[LayerResult]) -> None:
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
