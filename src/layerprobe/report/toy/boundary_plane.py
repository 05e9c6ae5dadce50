"""The boundary on which a head of two classes changes its answer, and the plane in which it is a straight line."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

LINES = ["checkpoint", "layer", "w1", "w2", "bias"]
"""Columns of a frame of lines: w1·h1 + w2·h2 + bias = 0."""

Head = Callable[[str, str], Mapping[str, np.ndarray]]
"""Gives the head of a checkpoint and layer; raises KeyError where there is none."""


def project(hidden: pd.DataFrame, head: Head) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Project samples of two or three units to a plane, with the lines of their probes.

    Three units are seen edge-on: the first axis is the unit normal n of the separating plane n·h + b = 0, the second
    the direction of the largest spread at a right angle to n. The plane is then exactly the line h1 = -b, and the
    distance of a sample to the line is its distance to the plane. Without a head the two axes are those of the largest
    spread.

    Args:
        hidden: The samples: checkpoint, step, layer, x1, x2, h1, h2, label, and h3 where a layer has three units.
        head: The probes' heads.

    Returns:
        The samples with h1 and h2 in the plane, and the lines: checkpoint, layer, w1, w2, bias.
    """
    groups, lines = [], []
    for (checkpoint, layer), group in hidden.groupby(["checkpoint", "layer"], sort=False):
        three = "h3" in group and bool(group["h3"].notna().all())
        names = ["h1", "h2", "h3"] if three else ["h1", "h2"]
        states = group[names].to_numpy(dtype=float)
        try:
            normal, bias = boundary(head(str(checkpoint), str(layer)))
            fits = len(normal) == len(names)
        except (KeyError, ValueError):
            fits = False
        if three:
            normal, bias = (normal, bias) if fits else (_spread(states, np.zeros(3)), 0.0)
            length = float(np.linalg.norm(normal)) or 1.0
            first = normal / length
            group = group.assign(h1=states @ first, h2=states @ _spread(states, first)).drop(columns="h3")
            normal, bias = np.array([1.0, 0.0]), bias / length
        groups.append(group)
        if fits:
            lines.append((checkpoint, layer, float(normal[0]), float(normal[1]), float(bias)))
    columns = [name for name in hidden if name != "h3"]
    return pd.concat(groups, ignore_index=True)[columns], pd.DataFrame(lines, columns=LINES)


def boundary(head: Mapping[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Find the hyperplane on which a head of two classes changes its answer, in the layer's own units.

    With standardised features (h - mean) / scale, class 1 wins over class 0 where
    Σ_j (W_1j - W_0j) (h_j - mean_j) / scale_j + b_1 - b_0 > 0.

    Args:
        head: `weight` (2 d), `bias` (2), `mean` (d), `scale` (d).

    Returns:
        The normal (d) and the bias of normal·h + bias = 0; class 1 is on its positive side.

    Raises:
        ValueError: If the head has not two classes.
    """
    weight, bias = np.asarray(head["weight"], dtype=float), np.asarray(head["bias"], dtype=float)
    if weight.ndim != 2 or len(weight) != 2:
        raise ValueError(
            f"a boundary needs a head of 2 classes; this one has weights of {weight.shape}. "
            f"Next step: probe a layer of two or three units, unreduced, with two classes."
        )
    mean, scale = np.asarray(head["mean"], dtype=float), np.asarray(head["scale"], dtype=float)
    normal = (weight[1] - weight[0]) / scale
    return normal, float(bias[1] - bias[0] - normal @ mean)


def cut_to_panel(w1: float, w2: float, bias: float, h1: tuple[float, float], h2: tuple[float, float]) -> pd.DataFrame:
    """Find the ends of the line w1·h1 + w2·h2 + bias = 0 in the panel; no row where it misses the panel."""
    crossings = set()
    for edge in h1:
        if w2 and h2[0] <= (crossing := -(w1 * edge + bias) / w2) <= h2[1]:
            crossings.add((edge, crossing))
    for edge in h2:
        if w1 and h1[0] <= (crossing := -(w2 * edge + bias) / w1) <= h1[1]:
            crossings.add((crossing, edge))
    ends = [min(crossings), max(crossings)] if len(crossings) > 1 else []
    return pd.DataFrame(ends, columns=["h1", "h2"], dtype=float)


def _spread(states: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Find the direction of the largest spread at a right angle to a unit vector; its largest entry is positive."""
    centred = states - states.mean(0)
    flat = centred - np.outer(centred @ normal, normal)
    _, sizes, directions = np.linalg.svd(flat, full_matrices=True)
    direction = directions[0]
    if len(sizes) == 0 or sizes[0] < 1e-12:
        direction = np.eye(len(normal))[int(np.abs(normal).argmin())]
        direction = direction - (direction @ normal) * normal
    direction = direction / np.linalg.norm(direction)
    return direction * np.sign(direction[int(np.abs(direction).argmax())])
