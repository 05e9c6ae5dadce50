"""Directions of linear heads in the features' own units, and the principal angles between what they span."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_ROUNDING = 1e-6
"""A singular value that is smaller than this share of the largest one is rounding, and spans nothing."""


def in_own_units(head: Mapping[str, np.ndarray]) -> tuple[Float[np.ndarray, "c d"], Float[np.ndarray, " c"]]:
    """Return weights and bias that apply to features as the reducer makes them: scores are features @ weight.T + bias.

    `head` holds the arrays of a saved head, see `LayerResult.head`; what is made of them is float64.

    With standardised features z = (x - m)/s and scores W z + b these are W/s, and the bias is b - W (m/s); where
    numbers are predicted, in the units of these.
    """
    mean, scale, weight, bias = (head[name].astype(np.float64) for name in ("mean", "scale", "weight", "bias"))
    weight = weight / scale
    bias = bias - weight @ mean
    if "target_scale" in head:
        unit, origin = head["target_scale"], head["target_mean"]
        return weight * unit[:, None], bias * unit + origin
    return weight, bias


def directions(head: Mapping[str, np.ndarray], task: str) -> Float[np.ndarray, "k d"]:
    """Find where a head looks, in the features' own units; see `contrasts`."""
    return contrasts(in_own_units(head)[0], task)


def contrasts(weight: Float[np.ndarray, "c d"], task: str) -> Float[np.ndarray, "k d"]:
    """Turn weights into directions.

    Returns:
        Of two classes one row, from the first to the second. Of more, a row for each class against the mean of all: a
        row that is added to all classes changes no answer, so these rows span c - 1 dimensions. Of several labels or
        values, a row for each.
    """
    if task != "classification":
        return weight
    return weight[1:] - weight[:1] if len(weight) == 2 else weight - weight.mean(0)


def row_space(rows: Float[np.ndarray, "r d"]) -> Float[np.ndarray, "k d"]:
    """Find an orthonormal basis of what rows span: as many rows as there are dimensions."""
    _, values, basis = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    return basis[values > _ROUNDING * values.max(initial=0.0)]


@dataclass(frozen=True)
class Angles:
    """The principal angles between two subspaces, in degrees.

    Attributes:
        angle: The angle whose squared cosine is the mean of the principal angles' squared cosines: 0 where the smaller
            subspace lies in the other, 90 where they are orthogonal. Of two lines, the angle between them.
        smallest: The smallest principal angle.
        largest: The largest one.
    """

    angle: float
    smallest: float
    largest: float


def principal_angles(first: Float[np.ndarray, "k d"], second: Float[np.ndarray, "m d"]) -> Angles:
    """Measure two subspaces, given by orthonormal bases of at least one row, against each other.

    Source: Björck & Golub (1973). The cosines are the singular values of U Vᵀ. Below 45° a cosine rounds the angle
    away; there sines are used, the singular values of U - (U Vᵀ) V for the smaller subspace U.
    """
    small, large = (first, second) if len(first) <= len(second) else (second, first)
    inner = small @ large.T
    cosines = np.linalg.svd(inner, compute_uv=False).clip(0, 1)
    sines = np.linalg.svd(small - inner @ large, compute_uv=False)[: len(small)][::-1].clip(0, 1)
    angles = np.degrees(np.where(cosines**2 < 0.5, np.arccos(cosines), np.arcsin(sines)))
    sine = math.sqrt(min(1.0, float(np.mean(np.sin(np.radians(angles)) ** 2))))
    return Angles(math.degrees(math.asin(sine)), float(angles.min()), float(angles.max()))


@dataclass(frozen=True)
class RandomAngle:
    """What the angle of `Angles` is for two subspaces that are drawn at random, in degrees.

    Attributes:
        angle: The angle of the mean squared cosine.
        low: 95 % of random subspaces are between this angle
        high: and this one.
    """

    angle: float
    low: float
    high: float


def random_angle(k: int, m: int, d: int) -> RandomAngle:
    """Say what subspaces of these dimensions come to that have nothing to do with each other.

    With P and Q the projections, t = tr PQ sums the squared cosines. For uniformly drawn subspaces E t = km/d and
    Var t = 2km(d-k)(d-m) / (d²(d-1)(d+2)), the moments of a matrix-variate beta; quantiles are those of the beta
    distribution with the same two moments, which for lines is the exact one, Beta(1/2, (d-1)/2). Subspaces with
    k + m > d share k + m - d dimensions at least, and tr PQ = k + m - d + tr (1-P)(1-Q): then it is the complements
    that are drawn.

    Args:
        k: Dimensions of the one, at least 1.
        m: Dimensions of the other, at least 1.
        d: Dimensions of the space.
    """
    from scipy.special import betaincinv

    smaller, shared = min(k, m), max(0, k + m - d)
    if shared:
        k, m = d - k, d - m
    mean = ends = k * m / d / max(1, min(k, m))
    if 0 < mean < 1:
        variance = 2 * k * m * (d - k) * (d - m) / (d**2 * (d - 1) * (d + 2)) / min(k, m) ** 2
        size = mean * (1 - mean) / variance - 1
        ends = betaincinv(mean * size, (1 - mean) * size, [0.975, 0.025])
    squared = (shared + min(k, m) * np.array([mean, *np.broadcast_to(ends, 2)])) / smaller
    return RandomAngle(*np.degrees(np.arccos(np.sqrt(squared.clip(0, 1)))).tolist())
