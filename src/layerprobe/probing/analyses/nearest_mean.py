"""Nearest class mean: the simplest linear classifier, as a reference beside the fitted one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.analyses.analysis import LayerData, Metric, TestSet
from layerprobe.probing.analyses.reference_predictor import AbstractReference, FittedReading, Train, compared
from layerprobe.probing.features.row_blocks import Features, placed_blocks
from layerprobe.probing.heads import Heads
from layerprobe.probing.tasks.task import AbstractTask


@final
@dataclass(frozen=True)
class NearestMean(AbstractReference):
    """Answers the class whose training mean is nearest, in the standardised features.

    ‖x - μ‖² = ‖x‖² - 2(μ·x - ½‖μ‖²), so that it is the linear head with the weights μ and the biases -½‖μ‖². With two
    classes it is the difference of means.
    """

    name: ClassVar[str] = "nearest_mean"
    needs_classes: ClassVar[bool] = True

    def fit(self, layer: LayerData) -> FittedReading:
        """See `AbstractAnalysis.fit`."""
        means = class_means(layer)
        bias = -means.square().sum(1) / 2
        parts = {"weight": means.to(layer.train.dtype), "bias": bias.to(layer.train.dtype)}

        def read(test_sets: Mapping[str, TestSet]) -> Iterable[Metric]:
            for name, test in test_sets.items():
                here = {part: values.to(test.features.device) for part, values in parts.items()}
                yield from compared(self.scores(here, test.features, layer.task), layer, name, test)

        return FittedReading(parts, read)

    @classmethod
    def scores(
        cls, parts: Mapping[str, Tensor], features: Features, task: AbstractTask, train: Train = None
    ) -> Float[Tensor, "n c"]:
        """See `AbstractReference.scores`."""
        return Heads(parts["weight"][None], parts["bias"][None]).scores(features)


def class_means(layer: LayerData) -> Float[Tensor, "c d"]:
    """Average the standardised training features of each class, in float64."""
    targets, c = layer.labels.splits["train"].to(layer.train.device), len(layer.labels.outputs)
    sums = torch.zeros(c, layer.train.shape[1], dtype=torch.float64, device=targets.device)
    for rows, part in placed_blocks(layer.train):
        sums.index_add_(0, targets[rows], part.double())
    return sums / torch.bincount(targets, minlength=c)[:, None]
