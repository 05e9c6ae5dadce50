"""Wilson's interval for the share of samples that are wrong."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(errors: int | float, n: int | float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for an error rate from independent samples.

    Source: Wilson (1927). With z the normal quantile and e = errors / n, the ends are the solutions r of
    |e - r| = z·sqrt(r(1 - r) / n). Unlike e ± z·sqrt(e(1 - e) / n) it never leaves [0, 1], and it has a length also
    at 0 and 1 errors.

    Args:
        errors: How many samples are wrong; an effective number need not be whole.
        n: How many samples there are, at least 1.
        confidence: Coverage wanted.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: Where `errors` is not between 0 and `n`, or `n` is 0.
    """
    if n < 1 or not 0 <= errors <= n:
        raise ValueError(f"an error rate needs 0 <= errors <= n and n >= 1, found {errors} errors of {n} samples")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = errors / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return (0.0 if errors == 0 else centre - half), (1.0 if errors == n else centre + half)
