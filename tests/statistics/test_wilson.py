from __future__ import annotations

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
