"""Few-shot curve of a layer: its test error over the number of labelled samples of each class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Int
from torch import Tensor

from layerprobe.probing.analyses.analysis import AbstractAnalysis, LayerData, Metric, Reading, TestSet
from layerprobe.probing.analyses.best_head import best_head
from layerprobe.probing.features.row_blocks import picked_rows
from layerprobe.probing.heads import Heads
from layerprobe.probing.metrics.intervals import mean_interval


@final
@dataclass(frozen=True)
class FewShot(AbstractAnalysis):
    """Heads of a few samples of each class: the test error over how many, a mean over several draws.

    A draw is a seeded order of the training samples, of which the first 1, 2, 4, … of each class are taken: the same
    at every layer and checkpoint, and each in the next. Heads are fitted by the selected head's solver, every sample
    alike, since there are equally many of each class; and chosen by error, whatever `selection` says, on the whole
    validation split, so that the curve says how many samples a head needs and not how many it takes to find its L2
    value. Features are standardised by all of train, without its labels.

    The interval is Student's for the mean over draws, of two that differ at least. It says how much depends on which
    samples are drawn, and not how much on which ones are tested. Near the smallest class's size, the draws have nearly
    the same samples of it, and the interval is too short.

    Attributes:
        samples: Samples of each class; numbers that the smallest class does not have are left out.
        draws: Draws of each.
    """

    samples: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128)
    draws: int = 5
    name: ClassVar[str] = "few_shot"
    needs_classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.samples or min(self.samples) < 1:
            raise ValueError(f"`samples` of few_shot is {list(self.samples)}. Give numbers of samples of a class, ≥ 1.")
        if self.draws < 1:
            raise ValueError(f"`draws` of few_shot is {self.draws}. Give at least 1; from 2 on there is an interval.")

    def fit(self, layer: LayerData) -> Reading:
        """See `AbstractAnalysis.fit`."""
        targets, k = layer.labels.splits["train"].cpu(), len(layer.labels.outputs)
        smallest = int(torch.bincount(targets).min())
        counts, solver = sorted({count for count in self.samples if count <= smallest}), layer.head.solver
        heads: dict[int, list[Heads]] = {}
        evaluate, gap = None, 0.0
        if layer.val is not None:
            val, truth = layer.val, layer.labels.splits["val"].to(layer.val.device)

            def evaluate(heads: Heads) -> tuple[Tensor, Tensor]:
                return layer.task.evaluate(heads, val, truth, solver)

        if not counts:
            raise ArithmeticError(f"the smallest class has {smallest} samples, fewer than {min(self.samples)}")
        for draw in range(self.draws):
            order = self.draw(layer, draw)
            for count in counts:
                rows = order[:, :count].flatten().sort().values
                features, some = picked_rows(layer.train, rows), targets[rows].to(layer.train.device)
                head = best_head(layer, solver, features, some, evaluate)
                heads.setdefault(count, []).append(head.heads)
                gap = max(gap, float(head.solution.gap[0]))

        def read(test_sets: Mapping[str, TestSet]) -> Iterable[Metric]:
            for name, test in test_sets.items():
                truth = test.targets.to(test.features.device)
                for count, several in heads.items():
                    moved = [each.to(truth.device) for each in several]
                    errors = [1 - float((h.scores(test.features).argmax(1) == truth).double().mean()) for h in moved]
                    mean, low, high = mean_interval(torch.tensor(errors, dtype=torch.float64), 0.0, 1.0)
                    yield Metric("error", mean, low, high, test_set=name, n_train=count * k)
            yield Metric("gap", gap)

        return read

    def draw(self, layer: LayerData, draw: int) -> Int[Tensor, "c s"]:
        """Draw samples of each class.

        Returns:
            For each class as many training samples as the smallest class has, the first ones first.
        """
        targets = layer.labels.splits["train"].cpu()
        generator = torch.Generator().manual_seed(layer.seed * self.draws + draw)
        order, smallest = torch.randperm(len(targets), generator=generator), int(torch.bincount(targets).min())
        return torch.stack([order[targets[order] == c][:smallest] for c in range(len(layer.labels.outputs))])
