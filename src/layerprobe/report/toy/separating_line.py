"""Where a probe of two classes over two features changes its answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from layerprobe.results.store import ProbeStore

LINES = ["checkpoint", "layer", "w1", "w2", "bias"]
"""Columns of a frame of lines: w1·h1 + w2·h2 + bias = 0."""


def separating_line(head: Mapping[str, np.ndarray]) -> tuple[float, float, float]:
    """Find where a head of two classes over two features changes its answer.

    With standardised features (h - mean) / scale, class 1 wins over class 0 where
    Σ_j (W_1j - W_0j) (h_j - mean_j) / scale_j + b_1 - b_0 > 0, a line in the layer's own units.

    Args:
        head: `weight` (2 2), `bias` (2), `mean` (2), `scale` (2).

    Returns:
        w1, w2 and bias of the line w1·h1 + w2·h2 + bias = 0; class 1 is on its positive side.

    Raises:
        ValueError: If the head has other shapes.
    """
    normal, bias = boundary(head)
    if len(normal) != 2:
        raise ValueError(
            f"a separating line needs a head of 2 classes over 2 features; this one has {len(normal)} features. "
            f"Next step: probe a layer of two units, unreduced, with two classes."
        )
    return float(normal[0]), float(normal[1]), bias


def boundary(head: Mapping[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Find the hyperplane on which a head of two classes changes its answer, in the layer's own units.

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
            f"a separating line needs a head of 2 classes over 2 features; this one has weights of {weight.shape}. "
            f"Next step: probe a layer of two units, unreduced, with two classes."
        )
    mean, scale = np.asarray(head["mean"], dtype=float), np.asarray(head["scale"], dtype=float)
    normal = (weight[1] - weight[0]) / scale
    return normal, float(bias[1] - bias[0] - normal @ mean)


def separating_lines(store: ProbeStore, hidden: pd.DataFrame) -> pd.DataFrame:
    """Collect the probes' lines for the panels of `hidden_plane`.

    Args:
        store: The results that keep the heads.
        hidden: The samples, with the columns checkpoint and layer.

    Returns:
        checkpoint, layer, w1, w2, bias; what has no head of two classes over two features is left out.
    """
    rows = []
    for checkpoint, layer in hidden[["checkpoint", "layer"]].drop_duplicates().itertuples(index=False):
        try:
            rows.append((checkpoint, layer, *separating_line(store.head(checkpoint, layer))))
        except (KeyError, ValueError):
            continue
    return pd.DataFrame(rows, columns=LINES)


def across(w1: float, w2: float, bias: float, h1: tuple[float, float], h2: tuple[float, float]) -> pd.DataFrame:
    """Cut a line to the panel that shows it.

    Args:
        w1: First weight of w1·h1 + w2·h2 + bias = 0.
        w2: Second weight.
        bias: Bias.
        h1: Ends of the first axis.
        h2: Ends of the second axis.

    Returns:
        h1 and h2 of the two ends; no row where the line misses the panel.
    """
    crossings = set()
    for edge in h1:
        if w2 and h2[0] <= (crossing := -(w1 * edge + bias) / w2) <= h2[1]:
            crossings.add((edge, crossing))
    for edge in h2:
        if w1 and h1[0] <= (crossing := -(w2 * edge + bias) / w1) <= h1[1]:
            crossings.add((crossing, edge))
    ends = [min(crossings), max(crossings)] if len(crossings) > 1 else []
    return pd.DataFrame(ends, columns=["h1", "h2"], dtype=float)
