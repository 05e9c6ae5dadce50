"""Best heads of each reducer of a layer, where several are asked for, beside the best of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layerprobe.probing.analyses.analysis import Metric
from layerprobe.probing.features.reducers import AbstractReducer, FeatureWay
from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.features.token_reducers import AbstractTokenReducer
from layerprobe.probing.fitting import measure
from layerprobe.probing.head_path import HeadPath
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.selection import select
from layerprobe.probing.targets import Labels
from layerprobe.types import Split

ERROR, VAL_ERROR = "reducer_error", "reducer_val_error"
"""Metrics whose `head` is the name of a reducer: of its best head, on a test set and on validation."""


def best_of_each(paths: Sequence[HeadPath]) -> dict[str, HeadPath]:
    """Choose a head for each reducer, as `select` chooses one of all: by validation, before test is there.

    Returns:
        By the name of each reducer its best head, as a path of one; in the order of the reducers. A token reducer has
        none on a layer without tokens, where it would stand for no place, nor has one whose heads all diverged.
    """
    found: dict[AbstractReducer, list[HeadPath]] = {}
    for path in paths:
        if path.way.reduction.axes or not isinstance(path.way.reducer, AbstractTokenReducer):
            found.setdefault(path.way.reducer, []).append(path)
    heads: dict[str, HeadPath] = {}
    for own in found.values():
        chosen = select(own)
        if chosen is not None and chosen.best is not None:
            name = named(chosen.way)
            heads[f"{name}, {chosen.way.reduction.description}" if name in heads else name] = chosen[chosen.best]
    return heads


def named(way: FeatureWay) -> str:
    """Return which token a token reducer takes, such as "last token"; of any other reducer, its name."""
    return way.reducer.phrase if isinstance(way.reducer, AbstractTokenReducer) else way.reducer.name


def read_tests(
    heads: Mapping[str, HeadPath],
    features: Mapping[Split, Mapping[FeatureWay, Features]],
    labels: Labels,
    protocol: ProbeProtocol,
    what: str,
) -> list[Metric]:
    """Read each test set once for each reducer.

    Returns:
        For each reducer, which is their `head`, the error on validation and on each test set, with its interval.
    """
    metrics = [Metric(VAL_ERROR, head.val_error[0], head=name) for name, head in heads.items()]
    for test_set, made in features.items():
        for name, head in heads.items():
            found = measure(head, made[head.way], labels.splits[test_set], protocol, f"{what}, {name}, {test_set}")
            metrics.append(Metric(ERROR, found.error, found.low, found.high, test_set=test_set, head=name))
    return metrics
