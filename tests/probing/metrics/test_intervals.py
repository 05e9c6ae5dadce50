from __future__ import annotations

import math

import pytest
import torch

from layerprobe.probing.metrics.intervals import mean_interval, unexplained_difference, unexplained_interval


def test_the_interval_of_a_target_that_hardly_varies_holds_its_estimate() -> None:
    targets = torch.zeros(50, 1, dtype=torch.float64)
    targets[0] = 1
    low, high = unexplained_interval(torch.zeros_like(targets), targets)
    assert low <= 0.02 / (0.02 * 0.98) <= high


@pytest.mark.parametrize("n", [60, 400])
def test_intervals_of_differences_in_pairs_hold_the_truth_as_often_as_said(n):
    draws = torch.Generator().manual_seed(0)
    # With y, t and u independent and of variance 1: 1 - R² is 2·0.4² of the first, and 2·0.2² of the second.
    y, t, u = torch.randn(3, 1500, n, 1, generator=draws, dtype=torch.float64)
    first, second, true = 0.6 * y + 0.4 * t, 0.8 * y + 0.2 * u, 2 * 0.4**2 - 2 * 0.2**2
    inside = [
        low <= true <= high
        for _, low, high in (unexplained_difference(*part) for part in zip(first, second, y, strict=True))
    ]
    assert 0.92 < sum(inside) / len(inside) < 0.97
    difficulty = torch.rand(1500, n, 1, generator=draws, dtype=torch.float64)
    shares = [(torch.rand(1500, n, 5, generator=draws) < most * difficulty).double().mean(2) for most in (0.4, 0.3)]
    found = [mean_interval(each) for each in shares[0] - shares[1]]
    assert 0.93 < sum(low <= 0.05 <= high for _, low, high in found) / len(found) < 0.97


def test_differences_that_are_all_the_same_have_no_interval():
    value, low, high = mean_interval(torch.full((9,), 0.25, dtype=torch.float64))
    assert value == 0.25
    assert math.isnan(low)
    assert math.isnan(high)


def test_the_difference_is_that_of_both_fractions():
    draws = torch.Generator().manual_seed(0)
    first, second, y = torch.randn(3, 50, 2, generator=draws, dtype=torch.float64)

    def unexplained(predicted):
        return float(((predicted - y).square().mean(0) / y.var(0, correction=0)).mean())

    assert unexplained_difference(first, second, y)[0] == pytest.approx(unexplained(first) - unexplained(second))


def test_constant_predictions_of_a_balanced_target_have_no_interval() -> None:
    targets = (torch.arange(40) % 2).double()[:, None]
    low, high = unexplained_interval(torch.full_like(targets, 0.5), targets)
    assert math.isnan(low)
    assert math.isnan(high)


def test_equal_differences_whose_mean_is_rounded_have_no_interval() -> None:
    differences = torch.full((1001,), 0.1, dtype=torch.float64)
    assert float(differences.std()) > 0
    assert all(map(math.isnan, mean_interval(differences)[1:]))
