"""Find out whether all samples lie in few dimensions, before anything is computed for all features."""

from __future__ import annotations

import torch
from torch import Tensor

from layerprobe.probing.matrix import Features, blocks, some_rows
from layerprobe.probing.solvers.span import AxesSpan

_FEWEST = 256
"""Features from which it is worth a look."""

_SHARE = 4
"""Features for each dimension, at least: for fewer, the coordinates bring too little."""

_DIMENSIONS = 1536
"""Samples that are tried as a basis, at most."""

_TESTED = 64
"""Samples that must lie in it."""

_NOISE = 1e-11
"""Share of a sample's square that may lie beside it: float32's rounding in a few operations is 1e-14 to 1e-12."""

_BLOCK = 1 << 22
"""Elements turned to float64 at a time: 32 MiB."""


def low_rank(features: Features, room: int) -> AxesSpan | None:
    r"""The samples' coordinates in their own subspace, where that has few dimensions.

    A layer that is linear in a narrower one is such a case: the convolution of an image with 32 filters has 32 times
    the image's numbers and no more dimensions, a transformer's widening map four times. m = d/4 random samples Q span
    the space of all if its dimension is below m; samples that were not drawn show whether it is. With B the axes of
    the drawn ones, the coordinates are XB, turned to the eigenvectors of their second moments.

    Nothing is lost without being noticed: a head's certificate is that of all features.

    Args:
        features: Standardised features.
        room: Bytes that axes and coordinates may take.

    Returns:
        The span, its coordinates' second moments diagonal and ascending; None where there are more dimensions.
    """
    n, d = features.shape
    m = min(d // _SHARE, _DIMENSIONS)
    if d < _FEWEST or n < m + _TESTED:
        return None
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    drawn, tested = (some_rows(features, which).double() for which in (order[:m], order[m : m + _TESTED]))
    if not (drawn.isfinite().all() and tested.isfinite().all()):
        return None
    axes = torch.linalg.qr(drawn.T)[0]
    beside = tested - (tested @ axes) @ axes.T
    if not float(beside.square().sum()) <= _NOISE * float(tested.square().sum()):
        return None
    moments = _moments(drawn @ axes)
    values, turn = torch.linalg.eigh(moments)
    kept = values > _NOISE / m * float(values.sum())
    r = int(kept.sum())
    if not 0 < r <= 0.9 * m or features.dtype.itemsize * n * r + 3 * 8 * d * r > room:
        return None
    axes = axes @ turn[:, kept]
    coordinates = _coordinates(features, axes)
    moments = _moments(coordinates)
    if not moments.isfinite().all():
        return None
    turn = torch.linalg.eigh(moments)[1]
    axes = axes @ turn
    for start in range(0, n, max(1, _BLOCK // r)):
        part = coordinates[start : start + max(1, _BLOCK // r)]
        part.copy_(part.double() @ turn)
    return AxesSpan(coordinates, axes)


def _coordinates(features: Features, axes: Tensor) -> Tensor:
    """XB, whose products are of float64: weak directions are far beneath float32's rounding of strong ones."""
    found = torch.empty(len(features), axes.shape[1], dtype=features.dtype, device=axes.device)
    start = 0
    for rows in blocks(features, _BLOCK):
        found[start : start + len(rows)] = rows.double() @ axes
        start += len(rows)
    return found


def _moments(coordinates: Tensor) -> Tensor:
    """Mean of zzᵀ in float64."""
    found = torch.zeros(2 * (coordinates.shape[1],), dtype=torch.float64, device=coordinates.device)
    for part in blocks(coordinates, _BLOCK):
        rows = part.double()
        found += rows.T @ rows
    return found / len(coordinates)
