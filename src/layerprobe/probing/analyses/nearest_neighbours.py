"""Nearest neighbours: what is near in a layer, as a reference beside its linear head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.analyses.analysis import LayerData, Metric, TestSet
from layerprobe.probing.analyses.neighbour_search import Distance, nearest_neighbours
from layerprobe.probing.analyses.reference_predictor import AbstractReference, FittedReading, Train, compared
from layerprobe.probing.features.row_blocks import Features, blocks
from layerprobe.probing.tasks.task import AbstractTask


@final
@dataclass(frozen=True)
class NearestNeighbours(AbstractReference):
    """Answers what most of the k nearest training samples have, in the standardised features.

    k is chosen on validation: the lowest error wins, and the larger k of equals. See `nearest_neighbours` for what is
    near, and `AbstractTask.vote` for who wins where classes have equally many neighbours. Besides `error` and
    `error_difference` it measures the chosen `k`.

    Attributes:
        k: Numbers of neighbours; those above the number of training samples are left out.
        metric: The distance, `euclidean` or `cosine`.
        keep_train: Whether its training features are kept with the results of each layer, so that it predicts anywhere;
            otherwise it finds them where features are kept.
    """

    name: ClassVar[str] = "knn"
    needs_val: ClassVar[bool] = True
    k: Sequence[int] = (1, 3, 5, 10, 20, 50, 100)
    metric: Distance = "euclidean"
    keep_train: bool = False

    @property
    def needs_train(self) -> bool:
        """See `AbstractReference.needs_train`."""
        return not self.keep_train

    def __post_init__(self) -> None:
        if not self.k or any(k < 1 for k in self.k):
            raise ValueError(f"`k` of `knn` is {list(self.k)}. Give numbers of neighbours of at least 1.")
        if self.metric not in get_args(Distance):
            raise ValueError(f"`metric` of `knn` is {self.metric!r}. Give one of {', '.join(get_args(Distance))}.")

    def fit(self, layer: LayerData) -> FittedReading:
        """See `AbstractAnalysis.fit`."""
        task, outputs = layer.task, len(layer.labels.outputs)
        targets = layer.labels.splits["train"].to(layer.train.device)
        grid = sorted({k for k in self.k if k <= len(targets)} or {len(targets)})
        best = grid[0]
        if len(grid) > 1:
            assert layer.val is not None
            truth = layer.labels.splits["val"].to(targets.device)
            near = targets[nearest_neighbours(layer.train, layer.val, grid[-1], self.metric)]
            best = min(grid, key=lambda k: (task.error(task.vote(near[:, :k], outputs), truth), -k))
        found = {"k": best, "outputs": outputs, "cosine": self.metric == "cosine"}
        parts = {"targets": targets, **{part: torch.tensor(value) for part, value in found.items()}}
        if self.keep_train:
            parts["train"] = torch.cat([rows.cpu() for rows in blocks(layer.train)])

        def read(test_sets: Mapping[str, TestSet]) -> Iterable[Metric]:
            for name, test in test_sets.items():
                yield from compared(self.scores(parts, test.features, task, layer.train), layer, name, test)
            yield Metric("k", float(best))

        return FittedReading(parts, read)

    @classmethod
    def scores(
        cls, parts: Mapping[str, Tensor], features: Features, task: AbstractTask, train: Train = None
    ) -> Float[Tensor, "n c"]:
        """See `AbstractReference.scores`."""
        train = parts["train"] if train is None else train
        metric: Distance = "cosine" if parts["cosine"] else "euclidean"
        near = nearest_neighbours(train, features, int(parts["k"]), metric)
        return task.vote(parts["targets"][near], int(parts["outputs"]))
