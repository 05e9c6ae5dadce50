"""Stratified order: samples of several classes, of which every part has the classes in their shares."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int


def stratified_order(n: int, strata: Iterable[tuple[Int[np.ndarray, " m"], float]]) -> Int[np.ndarray, " n"]:
    """Order samples so that every part has the classes in their shares, to within a sample or two.

    The i-th of the m samples of a class stands at (i + u)/m of the way.

    Args:
        n: Number of samples.
        strata: Of each class its samples, in their own order, and u in [0, 1).

    Returns:
        Indices of the samples.
    """
    place = np.empty(n)
    for samples, start in strata:
        place[samples] = (np.arange(len(samples)) + start) / len(samples)
    return np.argsort(place, kind="stable")
