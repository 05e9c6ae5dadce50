"""Directions of a linear head: where it looks in the features' own units, the standardisation undone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float


def in_own_units(head: Mapping[str, np.ndarray]) -> tuple[Float[np.ndarray, "c d"], Float[np.ndarray, " c"]]:
    """Weights and bias that apply to features as the reducer makes them: scores are features @ weight.T + bias.

    With standardised features z = (x - m)/s and scores W z + b these are W/s, and the bias is b - W (m/s); where
    numbers are predicted, in the units of these.

    Args:
        head: The arrays of a saved head, see `LayerResult.head`.

    Returns:
        Weight and bias, in float64.
    """
    mean, scale, weight, bias = (head[name].astype(np.float64) for name in ("mean", "scale", "weight", "bias"))
    weight = weight / scale
    bias = bias - weight @ mean
    if "target_scale" in head:
        unit, origin = head["target_scale"], head["target_mean"]
        return weight * unit[:, None], bias * unit + origin
    return weight, bias


def directions(head: Mapping[str, np.ndarray], task: str) -> Float[np.ndarray, "k d"]:
    """Where a head looks, in the features' own units; see `contrasts`.

    Args:
        head: The arrays of a saved head, see `LayerResult.head`.
        task: What it answers, as `ProbeRecord.task`.
    """
    return contrasts(in_own_units(head)[0], task)


def contrasts(weight: Float[np.ndarray, "c d"], task: str) -> Float[np.ndarray, "k d"]:
    """Turn weights into directions.

    Args:
        weight: Weights, a row for each class, label or value.
        task: What they answer, as `ProbeRecord.task`.

    Returns:
        Of two classes one row, from the first to the second. Of more, a row for each class against the mean of all: a
        row that is added to all classes changes no answer, so these rows span c - 1 dimensions. Of several labels or
        values, a row for each.
    """
    if task != "classification":
        return weight
    return weight[1:] - weight[:1] if len(weight) == 2 else weight - weight.mean(0)
