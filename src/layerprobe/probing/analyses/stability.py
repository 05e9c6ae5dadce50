"""Stability: how far apart the directions of heads are that were fitted to two halves of train."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.analyses.analysis import AbstractAnalysis, LayerData, Metric, Reading, TestSet
from layerprobe.probing.analyses.direction_metrics import angles_between, head_directions, random_metric
from layerprobe.probing.features.row_blocks import picked_rows
from layerprobe.probing.metrics.intervals import mean_interval
from layerprobe.probing.tasks.task import PathFit


@final
@dataclass(frozen=True)
class Stability(AbstractAnalysis):
    """Divides train into two halves, fits the selected L2 value to each, and measures the angle between the two heads.

    The halves have no sample in common, and equal parts of every class. This is the angle below which two heads of one
    layer, such as those of two training steps, cannot be told apart from heads of one and the same network. Nothing is
    read on test.

    Attributes:
        divisions: How often train is divided; the interval is Student's, over divisions.
    """

    divisions: int = 4
    name: ClassVar[str] = "stability"

    def __post_init__(self) -> None:
        if self.divisions < 1:
            raise ValueError(f"`divisions` must be at least 1, found {self.divisions}.")

    def fit(self, layer: LayerData) -> Reading:
        """See `AbstractAnalysis.fit`."""
        generator = torch.Generator().manual_seed(layer.seed)
        targets = layer.labels.splits["train"].cpu()
        drawn: list[dict[str, float]] = []
        for _ in range(self.divisions):
            one, other = (self._directions(half, layer) for half in _halves(targets, generator))
            drawn.append(angles_between(one, other, layer))
        random, n = random_metric(one, other, layer), len(targets) // 2

        def read(test_sets: Mapping[str, TestSet]) -> Iterable[Metric]:
            for name in drawn[0]:
                bounds = (-1.0, 1.0) if name.endswith("cosine") else (0.0, 90.0)
                values = torch.tensor([each[name] for each in drawn], dtype=torch.float64)
                yield Metric(name, *mean_interval(values, *bounds), n_train=n)
            yield Metric(random.metric, random.value, random.low, random.high, n_train=n)

        return read

    @staticmethod
    def _directions(half: Int[Tensor, " h"], layer: LayerData) -> Float[np.ndarray, "k d"]:
        features = picked_rows(layer.train, half)
        targets = layer.labels.splits["train"][half].to(features.device)
        solution = layer.task.fit(layer.head.solver, PathFit.of(features, layer.head.l2), targets, layer.labels)
        return head_directions(solution.weight[0], layer)


def _halves(targets: Tensor, generator: torch.Generator) -> Iterator[Int[Tensor, " h"]]:
    """Draw two halves, each in order, with equal parts of every class."""
    order = torch.randperm(len(targets), generator=generator)
    if targets.ndim == 1 and not targets.is_floating_point():
        order = order[targets[order].argsort(stable=True)]
    for start in (0, 1):
        yield order[start::2].sort().values
