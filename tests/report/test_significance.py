"""Against scipy, a plain reading of the papers, and published examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from layerprobe.report.significance import holm, mcnemar_p, two_sample_p
from layerprobe.statistics.intervals import newcombe_interval


@given(st.integers(0, 60), st.integers(0, 60))
def test_mid_p_is_the_exact_test_less_half_of_the_outcome_itself(b, c):
    if b == c:
        assert mcnemar_p(b, c) == 1
        return
    exact = stats.binomtest(b, b + c, 0.5).pvalue
    assert mcnemar_p(b, c) == pytest.approx(exact - stats.binom.pmf(b, b + c, 0.5), abs=1e-12)
    assert mcnemar_p(b, c) == mcnemar_p(c, b)


def test_mcnemars_test_on_a_published_example():
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


def test_pearsons_test_is_scipys_with_its_factor():
    table = np.array([[12, 88], [30, 90]])
    chi2 = stats.chi2_contingency(table, correction=False).statistic
    assert two_sample_p(12, 100, 30, 120) == pytest.approx(stats.chi2.sf(chi2 * 219 / 220, 1), rel=1e-9)
    assert two_sample_p(0, 5, 0, 9) == two_sample_p(5, 5, 9, 9) == two_sample_p(1, 4, 2, 8) == 1.0


@pytest.mark.parametrize(("share", "n", "m"), [(0.05, 60, 60), (0.3, 20, 40), (0.01, 400, 300)])
def test_level_and_coverage_of_independent_samples(share, n, m):
    generator = np.random.default_rng(1)
    pairs = list(
        zip(generator.binomial(n, share, 2000).tolist(), generator.binomial(m, share, 2000).tolist(), strict=True)
    )
    assert np.mean([two_sample_p(x, n, y, m) < 0.05 for x, y in pairs]) < 0.065
    ends = np.array([newcombe_interval(x, n, y, m) for x, y in pairs])
    assert np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0)) > 0.93
