"""A fitted reference of one layer, such as `mlp`: it predicts beside the linear head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.api.abstract_head import AbstractHead
from layerprobe.formatting import nearest, percent_text
from layerprobe.probing.analyses.analysis import AbstractAnalysis
from layerprobe.probing.analyses.attention import Attention as Attention
from layerprobe.probing.analyses.mean_difference import MeanDifference as MeanDifference
from layerprobe.probing.analyses.mlp import MLP as MLP
from layerprobe.probing.analyses.nearest_mean import NearestMean as NearestMean
from layerprobe.probing.analyses.nearest_neighbours import NearestNeighbours as NearestNeighbours
from layerprobe.probing.analyses.reference_predictor import AbstractReference
from layerprobe.probing.features.feature_store import FeatureStore, FeatureStoreError
from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.features.scaler import StandardisedRows, Standardiser
from layerprobe.probing.solvers.precision import full_precision
from layerprobe.types import FeatureRecipe, LayerResult, ProbeRecord, named_classes


@final
class ReferenceHead(AbstractHead):
    """What an analysis such as `mlp` has fitted beside the linear head of a layer; see `AbstractHead`.

    Args:
        result: What probing the layer has left behind.
        name: Name of the analysis.

    Attributes:
        record: As in `AbstractHead`; the reference's own errors are in `ProbeResults.metrics`.
    """

    def __init__(self, result: LayerResult, name: str) -> None:
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
        with torch.autocast(features.device.type, enabled=False), full_precision():
            found: Tensor = known[self.name].scores(parts, StandardisedRows(features, standardiser), self._task, train)
        return found

    def _train_features(self, file: str, features: Features) -> Tensor:
        where = f"`{self.name}` reads the features of the training samples of {self.record.layer!r} to predict"
        again = "Probe with keep=DIR (probe.keep=true in a run), which keeps them"
        if hasattr(kind := named_classes(AbstractReference)[self.name], "keep_train"):
            again += (
                f", or with analyses=[{kind.__name__}(keep_train=True)] (analysis.{self.name}.keep_train=true), which "
                "keeps them with the results"
            )
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
