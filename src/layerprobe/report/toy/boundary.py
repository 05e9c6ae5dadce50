"""The boundary on which a head of two classes changes its answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd


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
    """The ends of the line w1·h1 + w2·h2 + bias = 0 in the panel; no row where it misses the panel."""
    crossings = set()
    for edge in h1:
        if w2 and h2[0] <= (crossing := -(w1 * edge + bias) / w2) <= h2[1]:
            crossings.add((edge, crossing))
    for edge in h2:
        if w1 and h1[0] <= (crossing := -(w2 * edge + bias) / w1) <= h1[1]:
            crossings.add((crossing, edge))
    ends = [min(crossings), max(crossings)] if len(crossings) > 1 else []
    return pd.DataFrame(ends, columns=["h1", "h2"], dtype=float)
