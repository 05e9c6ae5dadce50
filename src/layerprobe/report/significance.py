"""Significance of a difference of two error rates; `statistics.intervals` has the intervals that belong to the tests.

On the same samples, in pairs: McNemar, Psychometrika 12 (1947), with the mid-p of Fagerland, Lydersen & Laake, BMC
Medical Research Methodology 13:91 (2013); `tango_interval` agrees with that test about zero.

On independent samples: Pearson's test with the factor (N - 1)/N, Campbell, Statistics in Medicine 26 (2007); the
interval is `newcombe_interval`.

Of many comparisons at once: Holm, Scandinavian Journal of Statistics 6 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binom


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Test whether two classifiers are right equally often, by those samples that only one of them gets right.

    Under the hypothesis b of the b + c such samples is Binomial(b + c, 1/2). With m = min(b, c),

        mid-p = 2 · P(X ≤ m) - P(X = m) = 2 · P(X < m) + P(X = m),

    which is the exact test with half of the observed outcome's probability; 1 where b = c.

    Args:
        only_first: Samples that only the first one gets right, b.
        only_second: Samples that only the second one gets right, c.
    """
    n, m = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    return float(2 * binom.cdf(m - 1, n, 0.5) + binom.pmf(m, n, 0.5))


def two_sample_p(wrong: int, n: int, other_wrong: int, other_n: int) -> float:
    """Test whether two shares of independent samples are equal; p is 1 where all are right or all are wrong.

    χ² = (N - 1) (p₂ - p₁)² / (p (1 - p) (1/n₁ + 1/n₂) N),   p the share of both together
    """
    total = n + other_n
    pooled = (wrong + other_wrong) / total
    if pooled in (0.0, 1.0):
        return 1.0
    difference = other_wrong / other_n - wrong / n
    squared = (total - 1) / total * difference**2 / (pooled * (1 - pooled) * (1 / n + 1 / other_n))
    return math.erfc(math.sqrt(squared / 2))


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for their number by Holm's step-down rule, which needs no independence.

    The i-th smallest of k becomes max over j ≤ i of min(1, (k - j + 1) p_j).
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    stepped = np.minimum(1.0, values[order] * (len(values) - np.arange(len(values))))
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(stepped) if len(values) else stepped
    return corrected.tolist()
