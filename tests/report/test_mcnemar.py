"""Against scipy's binomial test and a plain reading of Holm's rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from layerprobe.report.mcnemar import holm, mcnemar_p


@given(st.integers(0, 60), st.integers(0, 60))
def test_mid_p_is_the_exact_test_less_half_of_the_outcome_itself(b, c):
    if b == c:
        assert mcnemar_p(b, c) == 1
        return
    exact = stats.binomtest(b, b + c, 0.5).pvalue
    assert mcnemar_p(b, c) == pytest.approx(exact - stats.binom.pmf(b, b + c, 0.5), abs=1e-12)
    assert mcnemar_p(b, c) == mcnemar_p(c, b)


def test_a_published_example():
    # Fagerland, Lydersen & Laake (2013), airway hyper-responsiveness before and after transplantation: 7 and 1.
    assert mcnemar_p(1, 7) == pytest.approx(0.039, abs=5e-4)


def test_level_of_the_test_is_kept_where_nothing_differs():
    generator = np.random.default_rng(0)
    b = generator.binomial(30, 0.5, 4000)
    assert np.mean([mcnemar_p(int(x), 30 - int(x)) < 0.05 for x in b]) < 0.06


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_by_its_definition(p):
    order = sorted(range(len(p)), key=lambda i: (p[i], i))
    expected = [0.0] * len(p)
    for place, i in enumerate(order):
        expected[i] = max(min(1.0, (len(p) - j) * p[order[j]]) for j in range(place + 1))
    assert holm(p) == pytest.approx(expected)


def test_holm_known_values():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
