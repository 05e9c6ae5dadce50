"""Leave-one-out errors of ridge heads, in closed form."""

from __future__ import annotations

import torch

from layerprobe.probing.features.row_blocks import Features, placed_blocks
from layerprobe.probing.solvers.moments import Axes, Moments, Rows
from layerprobe.probing.solvers.solution import LeftOut

_ELEMENTS = 1 << 22
"""32 MiB in float64."""


def leave_one_out(
    features: Features,
    targets: Rows,
    moments: Moments,
    axes: Axes,
    counts: Rows | None = None,
    *,
    numbers: bool,
    elements: int = _ELEMENTS,
) -> LeftOut:
    r"""Leave each sample out in turn, for every L2 value, from one decomposition.

    The ridge fit is linear in the targets, ŷ = Hy, with the unpenalised bias and Z = X - 1x̄ᵀ
    \[ H = \tfrac1n 11^\top + \tfrac1n Z V (\Lambda + \mathrm{l2})^{-1} V^\top Z^\top. \]
    The fit without sample i predicts y_i - (y_i - ŷ_i)/(1 - h_ii) there (Allen's PRESS, 1974): with that prediction in
    the place of y_i, the whole fit solves the problem without i. That problem is the sum of the others' squares with
    the same penalty n·l2·‖W‖² (its mean, with l2·n/(n - 1)), on features standardised with sample i.

    Where sample i counts v_i, H becomes \(\tfrac1n (11^\top + Z V (\Lambda + \mathrm{l2})^{-1} V^\top Z^\top)
    \mathrm{diag}(v)\) with weighted means, and the same prediction takes the same place; its loss and error count once.

    Where a fit without i is not determined, as for l2 = 0 and h_ii = 1, the figures are NaN.

    Args:
        features: The samples.
        targets: Gives the rows (k, c) of Y for some samples.
        moments: Their means.
        axes: Their decomposition.
        counts: What each of some samples counts, of mean 1; 1 by default.
        numbers: Whether Y holds numbers, and not one-hot classes.
        elements: Numbers in float64 at a time.

    Returns:
        The figures.
    """
    (n, d), (p, r), c = features.shape, axes.inverse.shape, axes.turned.shape[1]
    loss, wrong = axes.inverse.new_zeros(p), axes.inverse.new_zeros(p)
    squares, spread = axes.inverse.new_zeros(p, c), axes.inverse.new_zeros(c)
    # (p c r): the heads in the axes
    heads = (axes.inverse[:, None, :] * axes.turned.T).reshape(p * c, r)
    for place, rows in placed_blocks(features, elements * d // max(d, p * c)):
        values = targets(place).double()
        x, y = (rows.double() - moments.feature_mean) @ axes.vectors, values[:, None]
        leverage = 1 / n + x.square() @ axes.inverse.T / n
        if counts is not None:
            leverage = leverage * counts(place)[:, None]
        residual = y - moments.target_mean - (x @ heads.T).view(len(x), p, c)
        spare = (1 - leverage)[:, :, None]
        out = y - torch.where(spare > 1e-9, residual / spare, torch.nan)
        loss += 0.5 * (y - out).square().sum((0, 2))
        if numbers:
            squares += (y - out).square().sum(0)
            spread += (values - moments.target_mean).square().sum(0)
        else:
            missed = (out.argmax(2) != y.argmax(2)).double()
            wrong += torch.where(out.isnan().any(2), torch.nan, missed).sum(0)
    varies = spread > 0
    return LeftOut(loss / n, (squares / spread)[:, varies].mean(1) if numbers else wrong / n)
