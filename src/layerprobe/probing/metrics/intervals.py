"""Intervals of a mean, of an unexplained variance, and of the difference of two."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.statistics.intervals import student_half_width

FEWEST = 10
"""Samples beneath which resampling says nothing."""

_RESAMPLES = 1000
_SMALLEST = 25
"""Resamples, and the samples of one at least."""

_DRAWN = 1 << 22
"""Numbers in resamples at a time."""


def unexplained_interval(predicted: Float[Tensor, "n c"], targets: Float[Tensor, "n c"]) -> tuple[float, float]:
    r"""Return the 95 % interval of the fraction of variance unexplained, 1 - R², from independent samples.

    For one value, u = A / B with A = mean (ŷ - y)² and B = mean (y - ȳ)². To first order in 1/√n (the delta method)
    u is the mean of its influences ψ_i = ((ŷ_i - y_i)² - u (y_i - ȳ)²) / B, whose mean is 0; ȳ itself adds nothing of
    that order. So Var(u) = Var(ψ) / n, for the mean over several values with the mean of their ψ.

    Squared errors are skewed, and under heavy tails their variance may be infinite: u ± 1.96·√Var(u) then covers 70 to
    85 %. So the quantiles of t = (log u* - log u) / s* are those of resamples, each with its own standard error s*, and
    the interval is u·exp(-s·t). A resample has m = n^0.65 samples, 25 at least: of n of them, t would not have the
    right distribution where the variance is infinite, of m ≪ n it does (Hall & LePage, 1996; Romano & Wolf, 1999). For
    normal errors the interval is about a tenth wider than 1.96 standard errors.

    Returns:
        Lower and upper end; NaN for fewer than ten samples, and where no resample has a t: where all errors are the
        same part of the variance.
    """
    n = len(targets)
    if n < FEWEST:
        return math.nan, math.nan
    squares, spread = (predicted - targets).square(), (targets - targets.mean(0)).square()
    error, log_error = _log_unexplained(squares[None], spread[None])
    if not float(error[0]) > 0:
        return 0.0, 0.0
    generator, t = torch.Generator().manual_seed(0), []
    m = min(n, max(_SMALLEST, math.ceil(n**0.65)))
    for size in torch.arange(_RESAMPLES).split(max(1, _DRAWN // (m * targets.shape[1]))):
        rows = torch.randint(n, (len(size), m), generator=generator).to(targets.device)
        found, deviation = _log_unexplained(squares[rows], spread[rows])
        t.append((found.log() - error.log()) / deviation)
    known = torch.cat(t)
    known = known[known.isfinite()]
    if not len(known):
        return math.nan, math.nan
    tail = (1 - 0.95) / 2
    low, high = known.quantile(known.new_tensor([tail, 1 - tail])).tolist()
    value, own = float(error[0]), float(log_error[0])
    # Of a target that hardly varies, many a resample is constant: what is left may lie to one side.
    return value * math.exp(-own * max(high, 0.0)), value * math.exp(-own * min(low, 0.0))


def _log_unexplained(
    squares: Float[Tensor, "r m c"], spread: Float[Tensor, "r m c"]
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
    """Compute 1 - R² of several sets of samples, and the standard errors of its logarithm."""
    variance, m = spread.mean(1, keepdim=True), squares.shape[1]
    errors = squares.mean(1, keepdim=True) / variance
    influence = ((squares - errors * spread) / variance).mean(2)
    error = errors.mean((1, 2))
    return error, (influence.square().sum(1) / (m * (m - 1))).sqrt() / error


def unexplained_difference(
    predicted: Float[Tensor, "n c"], other: Float[Tensor, "n c"], targets: Float[Tensor, "n c"]
) -> tuple[float, float, float]:
    r"""Return the difference of two fractions of variance unexplained on the same samples, with its 95 % interval.

    Both have one denominator, so that u - u' is to first order the mean of ψ_i - ψ'_i, the differences of the
    influences of `unexplained_interval`; with the same sums it is the mean over the values of

        δ_i = ((ŷ_i - y_i)² - (ŷ'_i - y_i)² - (u - u') (y_i - ȳ)²) / B + (u - u').

    Returns:
        The difference, and the ends of `mean_interval`.
    """
    spread = (targets - targets.mean(0)).square()
    gain = (predicted - targets).square() - (other - targets).square()
    difference = gain.mean(0) / spread.mean(0)
    return mean_interval(((gain - difference * spread) / spread.mean(0) + difference).mean(1))


def mean_interval(
    values: Float[Tensor, " n"], lowest: float = -math.inf, highest: float = math.inf
) -> tuple[float, float, float]:
    """Return the mean of independent values, float64, and the ends of Student's 95 % interval for it.

    The interval goes no lower than `lowest` and no higher than `highest`.

    Returns:
        Mean, lower and upper end; NaN where there is no value, and ends where there is one only or all agree: such
        values do not say how far others are apart.
    """
    n = len(values)
    if n == 0:
        return math.nan, math.nan, math.nan
    if (values == values[0]).all():
        return float(values[0]), math.nan, math.nan
    mean, half = float(values.mean()), student_half_width(float(values.std()), n)
    return mean, max(mean - half, lowest), min(mean + half, highest)
