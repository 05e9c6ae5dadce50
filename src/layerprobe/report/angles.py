"""Angles between the heads of one or several networks: a row for each two of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from layerprobe.statistics.directions import directions, principal_angles, random_angle, row_space

log = logging.getLogger("layerprobe")

Over: TypeAlias = Literal["layers", "checkpoints"]
"""What is compared: the layers of each checkpoint, or the checkpoints at each layer."""

HeadOf: TypeAlias = Callable[[str, str], Mapping[str, np.ndarray]]
"""The arrays of a head, by checkpoint and layer; KeyError where there is none."""

_NAMES = ("checkpoint", "step", "layer", "depth")
_FIGURES = ("angle", "smallest", "largest", "cosine", "nearness", "random_angle", "random_low", "random_high")


@dataclass(frozen=True)
class _Head:
    """What a head looks at.

    Attributes:
        names: Its checkpoint, step, layer and depth.
        basis: An orthonormal basis of its rows.
        used: Which features it looks at; one that is constant on train, such as a unit that never fires, has no weight.
        line: Its direction with a sign, of length 1, where it is a single one.
        coordinates: What its features are coordinates of, in words: heads can be compared where these are the same.
        problem: Why it cannot be compared; empty where it can.
    """

    names: tuple[Any, ...]
    basis: Float[np.ndarray, "k d"]
    used: Bool[np.ndarray, " d"]
    line: Float[np.ndarray, " d"] | None
    coordinates: str
    problem: str


def head_angles(results: pd.DataFrame, head: HeadOf, over: Over = "layers") -> pd.DataFrame:
    """Measure heads against each other, in the units of their layers' features.

    The angles are Euclidean in these units, the standardisation undone. Rows of a head of several classes count against
    their mean, see `directions`. Two heads can be compared where their layers have features of the same kind and
    number; whether these are the same coordinates is for the reader to know: they are along a residual stream, through
    an activation function, and from one training step to the next.

    Args:
        results: Results in the columns of `ProbeRecord`.
        head: Reads their heads; one that is damaged is compared with none, and named in a warning.
        over: Which pairs.

    Returns:
        A row for each ordered pair, each head with itself among them: `checkpoint`, `step`, `layer`, `depth` of the
        first and `other_checkpoint`, … of the second; `n_features`, of which those that are constant on train do not
        count; `dimensions` and `other_dimensions`; the angles in
        degrees as in `principal_angles.Angles`; `cosine` of two single directions, with its sign; the angle of random
        subspaces of these dimensions as in `RandomAngle`, as `random_angle`, `random_low`, `random_high`; `nearness`,
        by how much their mean squared cosine is above that of random subspaces, 1 where the one lies in the other; and
        `reason`, why there are no figures.
    """
    heads = [_read(row, head) for row in results.to_dict("records")]
    groups: dict[Any, list[_Head]] = {}
    for one in heads:
        groups.setdefault(one.names[0 if over == "layers" else 2], []).append(one)
    rows = [_pair(one, other) for group in groups.values() for one, other in product(group, group)]
    names = [*_NAMES, *(f"other_{name}" for name in _NAMES)]
    return pd.DataFrame(rows, columns=[*names, "n_features", "dimensions", "other_dimensions", *_FIGURES, "reason"])


def coordinates(row: Mapping[Any, Any]) -> str:
    """Say what the features of a head are coordinates of: heads can be compared where these are the same.

    Returns:
        It in words. Layers share a random choice of units where they are of one size; other reducers say what they
        make.
    """
    made = str(row["reduction"]).rsplit("-> ", 1)[-1].split(" (channel")[0]
    size = f" of {row['n_features_full']}" if "(seed " in made else ""
    return f"{made}{size} features"


def _read(row: Mapping[Any, Any], head: HeadOf) -> _Head:
    names, d = tuple(row[name] for name in _NAMES), int(row["n_features"])
    where, rows, basis, problem = f"{row['layer']} at {row['checkpoint']}", np.zeros((0, d)), np.zeros((0, d)), ""
    try:
        found = directions(head(str(row["checkpoint"]), str(row["layer"])), str(row["task"]))
        if found.shape[1] != d:
            raise ValueError(f"it has {found.shape[1]} weights of each class, but its layer {d} features")
        rows, basis = found, row_space(found)
    except KeyError:
        problem = f"{where} has no head"
    except ValueError as error:  # of its file, its shape or its numbers
        problem = f"the head of {where} is damaged"
        log.warning("The head of %s cannot be compared: %s", where, error)
    if not len(basis) and not problem:
        problem = f"the head of {where} is constant"
    line = rows[0] / np.linalg.norm(rows[0]) if len(rows) == len(basis) == 1 else None
    return _Head(names, basis, np.asarray(rows.any(0)), line, coordinates(row), problem)


def _pair(one: _Head, other: _Head) -> tuple[Any, ...]:
    dimensions = len(one.basis), len(other.basis)
    about = (*one.names, *other.names, one.basis.shape[1], *dimensions)
    reason = one.problem or other.problem
    if not reason and one.coordinates != other.coordinates:
        reason = f"{one.coordinates} against {other.coordinates}"
    d = 0 if reason else int((one.used | other.used).sum())
    if not reason and max(dimensions) == d:
        reason = f"a head looks at all of the {d} dimensions"
    if reason:
        return (*about, *[np.nan] * len(_FIGURES), reason)
    found, random = principal_angles(one.basis, other.basis), random_angle(*dimensions, d)
    cosine = np.nan if one.line is None or other.line is None else float(one.line @ other.line)
    excess = 1 - (np.sin(np.radians(found.angle)) / np.sin(np.radians(random.angle))) ** 2
    figures = (found.angle, found.smallest, found.largest, cosine, excess, random.angle, random.low, random.high)
    return (*about, *figures, "")
