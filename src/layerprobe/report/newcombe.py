"""The difference of two errors on samples that are not the same: its interval and its test.

Newcombe, Statistics in Medicine 17 (1998), method 10, of two intervals of Wilson, JASA 22 (1927); the test is Pearson's
with the factor (N - 1)/N, Campbell, Statistics in Medicine 26 (2007).
"""

from __future__ import annotations

import math

from layerprobe.wilson import wilson_interval


def newcombe_interval(wrong: int, n: int, other_wrong: int, other_n: int) -> tuple[float, float]:
    """The 95 % interval of the second share less the first, of independent samples.

    With p the shares and (l, u) their Wilson intervals,

        p₂ - p₁ - √((p₂ - l₂)² + (u₁ - p₁)²)   to   p₂ - p₁ + √((u₂ - p₂)² + (p₁ - l₁)²).

    Args:
        wrong: Samples that the first one gets wrong.
        n: Its samples.
        other_wrong: Samples that the second one gets wrong.
        other_n: Its samples.

    Returns:
        The ends, in [-1, 1].
    """
    first, second = wrong / n, other_wrong / other_n
    (low, high), (other_low, other_high) = wilson_interval(wrong, n), wilson_interval(other_wrong, other_n)
    difference = second - first
    return (
        difference - math.hypot(second - other_low, high - first),
        difference + math.hypot(other_high - second, first - low),
    )


def two_sample_p(wrong: int, n: int, other_wrong: int, other_n: int) -> float:
    """Test whether two shares of independent samples are equal.

        χ² = (N - 1) (p₂ - p₁)² / (p (1 - p) (1/n₁ + 1/n₂) N),   p the share of both together

    Args:
        wrong: Samples that the first one gets wrong.
        n: Its samples.
        other_wrong: Samples that the second one gets wrong.
        other_n: Its samples.

    Returns:
        The two-sided p value; 1 where all are right or all are wrong.
    """
    total = n + other_n
    pooled = (wrong + other_wrong) / total
    if pooled in (0.0, 1.0):
        return 1.0
    difference = other_wrong / other_n - wrong / n
    squared = (total - 1) / total * difference**2 / (pooled * (1 - pooled) * (1 / n + 1 / other_n))
    return math.erfc(math.sqrt(squared / 2))
