"""Range finder: whether all samples lie in few dimensions, before anything is computed for all features."""

from __future__ import annotations

import torch
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features, blocks, placed_blocks, some_rows
from layerprobe.probing.solvers.subspace import AxesSpan

_FEWEST = 256
"""Features from which it is worth a look."""

_SHARE = 3
"""Features for each dimension, at least: for fewer, the coordinates bring too little."""

_DIMENSIONS = 1536
"""Dimensions that are looked for, at most."""

_ROWS = 4
"""Rows for each of these that are looked at first."""

_TESTS = 64
"""Mixtures of samples that must lie in them."""

_HEAPS = 3
"""Heaps that each sample is added to: where two rare samples share one, they do not share the others."""

_CLOSE = 1e-2
"""Share of some samples' square that may lie beside as many others as there may be dimensions, for a closer look."""

_NOISE = 1e-11
"""Share of a mixture's square that may lie beside them: float32's rounding in a few operations is 1e-14 to 1e-12."""

_BLOCK = 1 << 22
"""Elements turned to float64 at a time: 32 MiB."""


def low_rank(features: Features, room: int) -> AxesSpan | None:
    r"""Return the samples' coordinates in their own subspace, where that has few dimensions.

    A layer that is linear in a narrower one is such a case: the convolution of an image with 32 filters has 32 times
    the image's numbers and no more dimensions, a transformer's widening map four times. Whether m = d/3 dimensions may
    do is seen by a few samples, which have to lie close to the span of m others. Then all samples are added up, with
    random signs, each into a few of m heaps (a sparse embedding: Nelson & Nguyen, 2013): if they have fewer dimensions
    than m, the heaps span the same space, with directions in it that few samples have. Other heaps show whether they
    do. With B the axes of the space, the coordinates are XB, turned to the eigenvectors of their second moments.

    What lies beside is float32's rounding, or as little. A head's certificate is that of all features, where there is
    a penalty; without one, nothing would tell.

    Args:
        features: Standardised features.
        room: Bytes that axes and coordinates may take.

    Returns:
        The span, its coordinates' second moments diagonal and ascending; None where there are more dimensions.
    """
    n, d = features.shape
    m = min(d // _SHARE, _DIMENSIONS)
    if d < _FEWEST:
        return None
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    some = some_rows(features, order[: m + _TESTS]).double()
    if not some.isfinite().all() or _share_beside(_axes(some[:-_TESTS]), some[-_TESTS:]) > _CLOSE:
        return None
    # Some rows have no more dimensions than all, and show sooner that these are too many.
    fewer = [some_rows(features, order[: _ROWS * m])] if n > 2 * _ROWS * m else []
    for rows in (*fewer, features):
        sketch, tests = _heaps(rows, m)
        if not (sketch.isfinite().all() and tests.isfinite().all()):
            return None
        axes = _axes(sketch)
        if not _share_beside(axes, tests) <= _NOISE:
            return None
    values, turn = torch.linalg.eigh(_moments(sketch @ axes))
    kept = values > _NOISE / m * float(values.sum())
    r = int(kept.sum())
    if not 0 < r <= 0.9 * m or features.dtype.itemsize * n * r + (3 * 8 + 4) * d * r > room:
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


def _axes(rows: Tensor) -> Tensor:
    """Compute an orthonormal basis of the span of some rows, in columns."""
    return torch.linalg.qr(rows.T)[0]


def _share_beside(axes: Tensor, tests: Tensor) -> float:
    """Measure the share of the tests' squares that lies beside some axes; NaN where they are zero."""
    beside = tests - (tests @ axes) @ axes.T
    return float(beside.square().sum() / tests.square().sum())


def _heaps(features: Features, m: int) -> tuple[Tensor, Tensor]:
    """Add samples up, each into `_HEAPS` of m heaps and one of the tests', in float64."""
    n, d = features.shape
    generator = torch.Generator().manual_seed(1)
    signs = (2.0 * torch.randint(2, (_HEAPS + 1, n), generator=generator) - 1).to(features.device, torch.float64)
    sketch, tests = (torch.zeros(size, d, dtype=torch.float64, device=features.device) for size in (m, _TESTS))
    added = [sketch] * _HEAPS + [tests]
    places = [torch.randint(len(heaps), (n,), generator=generator).to(features.device) for heaps in added]
    for which, part in placed_blocks(features, _BLOCK):
        rows = part.double()
        for heaps, place, sign in zip(added, places, signs, strict=True):
            if rows.device.type == "cpu":
                heaps.index_add_(0, place[which], rows * sign[which, None])
            else:  # the order in which a GPU adds is never the same; that of a product is
                shares = rows.new_zeros(len(heaps), len(rows))
                heaps += shares.scatter_(0, place[None, which], sign[None, which]) @ rows
    return sketch, tests


def _coordinates(features: Features, axes: Tensor) -> Tensor:
    """Compute XB with products of float64: weak directions are far beneath float32's rounding of strong ones."""
    found = torch.empty(len(features), axes.shape[1], dtype=features.dtype, device=axes.device)
    for place, rows in placed_blocks(features, _BLOCK):
        found[place] = rows.double() @ axes
    return found


def _moments(coordinates: Tensor) -> Tensor:
    """Compute the mean of zzᵀ in float64."""
    found = torch.zeros(2 * (coordinates.shape[1],), dtype=torch.float64, device=coordinates.device)
    for part in blocks(coordinates, _BLOCK):
        rows = part.double()
        found += rows.T @ rows
    return found / len(coordinates)
