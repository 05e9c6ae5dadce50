"""Against scipy, a plain reading of the papers, and by how often the intervals hold the truth."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from layerprobe.report.significance import holm, mcnemar_p, newcombe_interval, tango_interval, two_sample_p
from layerprobe.wilson import wilson_interval

Z = NormalDist().inv_cdf(0.975)


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


def _score(delta, b, c, n):
    """The score statistic, with the likelihood made large by search."""

    def lost(q):
        cells = np.array([q + delta, q, 1 - 2 * q - delta])
        counts = np.array([b, c, n - b - c])
        return -float(np.sum(counts * np.log(np.maximum(cells, 1e-300))))

    low, high = max(0.0, -delta), (1 - delta) / 2
    q = optimize.minimize_scalar(lost, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
    return (b - c - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))


@pytest.mark.parametrize(("b", "c", "n"), [(3, 1, 40), (0, 5, 30), (12, 12, 100), (1, 7, 21), (43, 2, 50)])
def test_ends_are_where_the_score_test_rejects(b, c, n):
    low, high = (float(end) for end in tango_interval(b, c, n))
    assert _score(low, b, c, n) == pytest.approx(Z, abs=1e-4)
    assert _score(high, b, c, n) == pytest.approx(-Z, abs=1e-4)
    other = [-float(end) for end in tango_interval(c, b, n)]
    assert [high, low] == pytest.approx(other, abs=1e-12)


def test_tangos_interval_on_a_published_example():
    # Fagerland, Lydersen & Laake (2014), airway hyper-responsiveness: 1 and 7 of 21; Tango -0.517 to -0.026.
    assert [float(end) for end in tango_interval(1, 7, 21)] == pytest.approx([-0.517, -0.026], abs=1e-3)


def test_no_sample_in_dispute_leaves_an_interval_all_the_same():
    low, high = tango_interval([0, 0, 8], [0, 8, 0], [8, 8, 8])
    assert high[0] == -low[0] == pytest.approx(Z**2 / (8 + Z**2))
    assert (low[1], high[2]) == (-1, 1)
    assert -1 < high[1] < 0 < low[2] < 1


def _wald(b, c, n):
    half = Z * np.sqrt(np.maximum(b + c - (b - c) ** 2 / n, 0)) / n
    return (b - c) / n - half, (b - c) / n + half


@pytest.mark.parametrize(
    ("first", "second", "n"), [(0.01, 0.01, 100), (0.03, 0.0, 100), (0.01, 0.001, 200), (0.1, 0.05, 60), (0.3, 0.1, 25)]
)
def test_the_truth_is_inside_as_often_as_said(first, second, n):
    generator = np.random.default_rng(0)
    b, c, _ = generator.multinomial(n, [first, second, 1 - first - second], 4000).T
    inside = {
        name: float(np.mean((low <= first - second) & (first - second <= high)))
        for name, (low, high) in {"tango": tango_interval(b, c, n), "wald": _wald(b, c, n)}.items()
    }
    assert 0.93 < inside["tango"] <= 1
    if second < first / 2 and first < 0.05:  # a few samples in dispute, most of them on one side
        assert inside["wald"] < 0.9


@pytest.mark.parametrize(("count", "n"), [(0, 8), (3, 8), (8, 8), (17, 400)])
def test_wilsons_interval_is_scipys_without_a_negative_zero(count, n):
    expected = stats.binomtest(count, n).proportion_ci(method="wilson")
    low, high = wilson_interval(count, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert low >= 0
    assert math.copysign(1, low) == 1
    assert high <= 1


def test_independent_samples_by_a_published_example():
    # Newcombe (1998), table II: 56/70 less 48/80, method 10: 0.0524 to 0.3339; 0/10 less 0/10: ±0.2775.
    assert newcombe_interval(48, 80, 56, 70) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert newcombe_interval(0, 10, 0, 10) == pytest.approx((-0.2775, 0.2775), abs=1e-4)


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
