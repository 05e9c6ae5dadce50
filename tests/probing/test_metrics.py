from __future__ import annotations

import math

import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from layerprobe.probing.metrics import f1_score, roc_auc, wilson_interval


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_equals_scipy(case: tuple[int, int]) -> None:
    errors, n = case
    expected = binomtest(errors, n).proportion_ci(0.95, "wilson")
    assert wilson_interval(errors, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("errors", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_refuses_impossible_counts(errors: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= errors <= n"):
        wilson_interval(errors, n)


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
