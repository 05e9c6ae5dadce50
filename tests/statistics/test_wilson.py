from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from layerprobe.statistics.intervals import wilson_interval


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_equals_scipy(case: tuple[int, int]) -> None:
    errors, n = case
    expected = binomtest(errors, n).proportion_ci(0.95, "wilson")
    assert wilson_interval(errors, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("errors", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_refuses_impossible_counts(errors: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= errors <= n"):
        wilson_interval(errors, n)


@pytest.mark.parametrize(("count", "n"), [(0, 8), (3, 8), (8, 8), (17, 400)])
def test_wilsons_interval_is_scipys_without_a_negative_zero(count: int, n: int) -> None:
    expected = binomtest(count, n).proportion_ci(method="wilson")
    low, high = wilson_interval(count, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert low >= 0
    assert math.copysign(1, low) == 1
    assert high <= 1
