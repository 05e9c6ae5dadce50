from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from torchmetrics.functional.classification import multiclass_auroc

from layerprobe.probing.metrics.classification import class_auc, f1_score, roc_auc
from layerprobe.probing.metrics.score_metrics import Scored, score_metrics
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


def test_f1_of_a_record_is_the_macro_f1_of_its_scores_where_train_and_test_have_other_classes() -> None:
    predicted, targets = torch.tensor([0, 1, 1, 4, 0, 1]), torch.tensor([0, 1, 1, 4, -1, -1])  # nothing of 2 and 3
    scored = Scored(targets.numpy(), predicted.numpy(), np.zeros((6, 5)), None)
    found = f1_score(predicted, targets, 5)
    assert found == pytest.approx(score_metrics(["macro_f1"], scored)["macro_f1"][0])
    assert found == pytest.approx((2 / 3 + 4 / 5 + 1 + 0) / 4), "the classes that train has not are one, always wrong"


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
