"""95 % intervals: of an error rate (Wilson), of the difference of two (Tango, Newcombe) and of a mean (Student)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np

_Z = NormalDist().inv_cdf((1 + 0.95) / 2)
_HALVINGS = 52

Counts: TypeAlias = int | Sequence[int] | np.ndarray


def wilson_interval(errors: int | float, n: int | float) -> tuple[float, float]:
    """Return the 95 % interval of an error rate from n ≥ 1 independent samples; an effective n need not be whole.

    Source: Wilson (1927). With z the normal quantile and e = errors / n, the ends are the solutions r of
    |e - r| = z·sqrt(r(1 - r) / n). Unlike e ± z·sqrt(e(1 - e) / n) it never leaves [0, 1], and it has a length also
    at 0 and 1 errors.

    Raises:
        ValueError: Where `errors` is not between 0 and `n`, or `n` is 0.
    """
    if n < 1 or not 0 <= errors <= n:
        raise ValueError(f"an error rate needs 0 <= errors <= n and n >= 1, found {errors} errors of {n} samples")
    rate = errors / n
    centre = (rate + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    half = _Z / (1 + _Z * _Z / n) * math.sqrt(rate * (1 - rate) / n + _Z * _Z / (4 * n * n))
    return (0.0 if errors == 0 else centre - half), (1.0 if errors == n else centre + half)


def tango_interval(only_first: Counts, only_second: Counts, n: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % score interval of (b - c)/n: b samples only the first classifier gets right, c only the second.

    Source: Tango, Statistics in Medicine 17 (1998), compared with others by Fagerland, Lydersen & Laake, Statistics in
    Medicine 33 (2014). Its ends are where the score test of the difference rejects.

    A difference δ is inside where (b - c - nδ)² ≤ z² n (2q + δ(1 - δ)), with n(2q + δ - δ²) the variance of b - c under
    δ. There q, the probability of a sample of c, is at its most likely value under δ,

        2n q² + (-b - c + (2n - b + c) δ) q - c δ (1 - δ) = 0,

    of which it is the larger root. Each end is found by halving: the observed difference is inside, ±1 is not.
    """
    b, c, n = (np.asarray(count, dtype=float) for count in np.broadcast_arrays(only_first, only_second, n))

    def inside(delta: Any) -> Any:
        linear = -b - c + (2 * n - b + c) * delta
        root = np.sqrt(np.maximum(linear**2 + 8 * n * c * delta * (1 - delta), 0))
        q = (root - linear) / (4 * n)
        return (b - c - n * delta) ** 2 <= _Z**2 * n * np.maximum(2 * q + delta * (1 - delta), 0)

    ends = []
    for limit in (-1.0, 1.0):
        near, far = (b - c) / n, np.full_like(n, limit)
        for _ in range(_HALVINGS):
            middle = (near + far) / 2
            within = inside(middle)
            near, far = np.where(within, middle, near), np.where(within, far, middle)
        ends.append(near)
    return ends[0], ends[1]


def newcombe_interval(wrong: int, n: int, other_wrong: int, other_n: int) -> tuple[float, float]:
    """Return the 95 % interval of the second share less the first, of independent samples.

    Source: Newcombe, Statistics in Medicine 17 (1998), method 10, of two intervals of Wilson, JASA 22 (1927). With p
    the shares and (l, u) their Wilson intervals,

        p₂ - p₁ - √((p₂ - l₂)² + (u₁ - p₁)²)   to   p₂ - p₁ + √((u₂ - p₂)² + (p₁ - l₁)²).
    """
    first, second = wrong / n, other_wrong / other_n
    (low, high), (other_low, other_high) = wilson_interval(wrong, n), wilson_interval(other_wrong, other_n)
    difference = second - first
    return (
        difference - math.hypot(second - other_low, high - first),
        difference + math.hypot(other_high - second, first - low),
    )


def student_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def student_half_width(deviation: float, n: int) -> float:
    """Compute half of Student's 95 % interval of a mean, t·s/√n with n - 1 degrees of freedom."""
    return student_quantile(n - 1) * deviation / math.sqrt(n)
