from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from layerprobe.statistics.intervals import student_half_width, student_quantile


@pytest.mark.parametrize("n", [2, 5, 31])
def test_equals_scipy(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert student_half_width(values.std(ddof=1), n) == pytest.approx((high - low) / 2, rel=1e-12)
    assert student_quantile(n - 1) == pytest.approx(stats.t.ppf(0.975, n - 1), rel=1e-12)
