"""Against a plain reading of the paper, and by how often the interval holds the truth."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy import optimize

from layerprobe.statistics.intervals import tango_interval

Z = NormalDist().inv_cdf(0.975)


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
