"""Networks of runs, told apart by the names of their layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from layerprobe.report.config_differences import value_text
from layerprobe.report.layer_labels import clipped
from layerprobe.results.reader import Run

_LONGEST = 24


class Network(NamedTuple):
    """What runs with the same layers, on the same problem, have in common.

    Attributes:
        name: Name of the model, with what tells it from others of that name.
        layers: Names of the layers, in the order of depth.
    """

    name: str
    layers: tuple[str, ...]


def networks(runs: Sequence[Run], problems: Sequence[str]) -> tuple[list[Network], list[int]]:
    """Tell the networks of runs apart: the errors of one can be averaged.

    Args:
        runs: The runs. One that ended early has only some of its layers: it counts to a network that has them all.
        problems: What each run's errors are errors of; a network on two problems counts twice.

    Returns:
        The networks, in the order of the runs; and for each run the number of its network.
    """
    seen = [tuple(run.results.sort_values("depth", kind="stable")["layer"].drop_duplicates().tolist()) for run in runs]
    whole: list[tuple[str, ...]] = []
    for layers in sorted(dict.fromkeys(seen), key=len, reverse=True):
        if not any(set(layers) <= set(other) for other in whole):
            whole.append(layers)
    of = [
        (next(other for other in whole if set(layers) <= set(other)), problem)
        for layers, problem in zip(seen, problems, strict=True)
    ]
    ordered = list(dict.fromkeys(of))
    numbers = [ordered.index(one) for one in of]
    names = [
        clipped(", ".join(dict.fromkeys(_model(run) for run, n in zip(runs, numbers, strict=True) if n == i)), _LONGEST)
        for i in range(len(ordered))
    ]
    for tell in (lambda i: ordered[i][1], lambda i: f"{len(ordered[i][0])} layers", lambda i: f"{i + 1}"):
        repeated = {name for name in names if names.count(name) > 1}
        told = {name: len({tell(i) for i, other in enumerate(names) if other == name}) for name in repeated}
        names = [f"{name} ({tell(i)})" if told.get(name, 1) > 1 else name for i, name in enumerate(names)]
    return [Network(name, layers) for name, (layers, _) in zip(names, ordered, strict=True)], numbers


def _model(run: Run) -> str:
    return value_text(run.config.get("model") or run.config.get("experiment") or "network")
