from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from torchmetrics.functional.classification import multiclass_auroc

from layerprobe.probing.metrics import (
    class_auc,
    f1_score,
    mean_interval,
    roc_auc,
    unexplained_difference,
    unexplained_interval,
)
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.softmax_objective import log_odds
from layerprobe.probing.solvers.solver import AbstractSolver


@pytest.mark.parametrize("n_classes", [2, 4])
def test_f1_and_auc_are_scikit_learns(n_classes: int) -> None:
    generator = torch.Generator().manual_seed(n_classes)
    targets = torch.randint(n_classes, (500,), generator=generator)
    predicted = torch.where(
        torch.rand(500, generator=generator) < 0.4, torch.randint(n_classes, (500,), generator=generator), targets
    )
    average = "binary" if n_classes == 2 else "macro"
    expected = sklearn.metrics.f1_score(targets.numpy(), predicted.numpy(), average=average)
    assert f1_score(predicted, targets, n_classes) == pytest.approx(expected, abs=1e-12)
    scores = (targets + 2 * torch.randn(500, generator=generator)).round(decimals=1)
    assert len(scores.unique()) < 400, "ties are what ranks have to get right"
    expected = sklearn.metrics.roc_auc_score(targets.numpy() == 1, scores.numpy())
    assert roc_auc(scores, targets == 1) == pytest.approx(expected, abs=1e-12)


def test_f1_and_auc_where_a_class_is_missing() -> None:
    none = torch.zeros(4, dtype=torch.int64)
    assert f1_score(none, none, 2) == 0.0
    assert math.isnan(roc_auc(torch.randn(4), none == 1))
    assert f1_score(torch.tensor([1, 1, 0]), torch.tensor([1, -1, -1]), 2) == pytest.approx(2 / 3)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("solver", [Logistic(), Ridge()])
def test_the_area_of_a_classifier_is_that_of_scikit_learn_and_torchmetrics(
    n_classes: int, solver: AbstractSolver
) -> None:
    generator = torch.Generator().manual_seed(n_classes)
    targets = torch.randint(n_classes, (400,), generator=generator)
    scores = torch.randn(400, n_classes, generator=generator) + torch.eye(n_classes)[targets]
    if isinstance(solver, Ridge):
        scores += (1 - scores.sum(1, keepdim=True)) / n_classes
    else:
        scores = scores.double()
    rated = scores if isinstance(solver, Ridge) else scores.softmax(1)
    known = rated[:, 1] if n_classes == 2 else rated
    expected = sklearn.metrics.roc_auc_score(targets.numpy(), known.numpy(), multi_class="ovr")
    assert class_auc(solver.ranking(scores), targets) == pytest.approx(expected, abs=1e-5)
    if not isinstance(solver, Ridge):
        assert float(multiclass_auroc(rated, targets, n_classes)) == pytest.approx(expected, abs=1e-5)

    # A class that train has not seen: the others' areas stay.
    seen = class_auc(solver.ranking(torch.cat([scores, 3 * scores[:50]])), torch.cat([targets, torch.full((50,), -1)]))
    assert seen == class_auc(solver.ranking(scores), targets)


def test_log_odds_are_apart_where_probabilities_round_to_one() -> None:
    scores = torch.tensor([[0.0, 50.0, 1.0], [0.0, 60.0, 1.0], [0.0, 0.0, 0.0]])
    found = log_odds(scores)
    assert found[0, 1] < found[1, 1], "the softmax is 1 in both"
    np.testing.assert_allclose(found[2].exp(), 0.5)
    p = scores.double().softmax(1)
    np.testing.assert_allclose(found[:, 2], (p / (1 - p)).log()[:, 2], rtol=1e-12)


def test_a_class_without_samples_has_no_area() -> None:
    scores = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    two = torch.arange(20) % 2
    expected = (roc_auc(scores[:, 0], two == 0) + roc_auc(scores[:, 1], two == 1)) / 2
    assert class_auc(scores, two) == expected
    assert math.isnan(class_auc(scores, torch.full((20,), -1)))


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
