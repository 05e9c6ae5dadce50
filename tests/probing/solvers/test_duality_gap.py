"""The certificate against its formula, sample by sample, and what bounds an optimum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from helpers.reference import made
from layerprobe.probing.solvers import duality_gap
from layerprobe.probing.solvers.duality_gap import certify
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.solver import of_mean_one


def slow_bound(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, l2: float, counts: np.ndarray
) -> float:
    """D(q') of `certify`, for any number of classes; 0 where a factor is too small."""
    scores = x @ weight.T + bias
    q = np.exp(scores - scores.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    share = counts[:, None] / len(x)
    curvature = np.diag((share * q).sum(0)) - (share * q).T @ q
    slope = (share * (q - np.eye(len(weight))[y])).sum(0)
    delta = -np.linalg.pinv(curvature, rcond=1e-10) @ slope
    factor = 1 + delta - q @ delta[:, None]
    tilted = q * factor
    moment = (share * (tilted - np.eye(len(weight))[y])).T @ x
    entropy = -(share * tilted * np.log(tilted)).sum() if factor.min() > 0.5 else math.nan
    return 0.0 if math.isnan(entropy) else max(0.0, entropy - (moment**2).sum() / (2 * l2))


@pytest.mark.parametrize("weights", [None, torch.tensor([2.0, 0.5])], ids=["equal", "weighted"])
@pytest.mark.parametrize("elements", [None, 1000], ids=["one block", "blocks"])
def test_two_classes_have_the_bound_of_the_formula(
    weights: torch.Tensor | None, elements: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if elements is not None:
        monkeypatch.setattr(duality_gap, "_ELEMENTS", elements)
    x, y = (torch.as_tensor(part) for part in made(700, 6, 2, 1.0))
    l2 = torch.tensor([1e-3, 1e-1, 10.0], dtype=torch.float64)
    counts = None if weights is None else of_mean_one(weights, y)
    best = Logistic().solve(x, y, 2, l2, weights=weights)
    each = np.ones(700) if counts is None else counts[y].numpy()
    for away in (0.0, 0.1, 30.0):
        noise = torch.Generator().manual_seed(0)
        weight = best.weight.double() + away * torch.randn(best.weight.shape, generator=noise).double()
        bias = best.bias.double() + away * torch.randn(best.bias.shape, generator=noise).double()
        found = certify(x, y, weight, bias, l2, counts)
        for i in range(3):
            slow = slow_bound(x.double().numpy(), y.numpy(), weight[i].numpy(), bias[i].numpy(), float(l2[i]), each)
            assert float(found.bound[i]) == pytest.approx(slow, abs=1e-9)
        assert (found.bound <= best.objective + 1e-9).all()
        assert (found.objective >= best.objective * (1 - 1e-5)).all()


@pytest.mark.parametrize("c", [3, 70])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kept", [True, False])
def test_more_classes_have_the_bound_of_the_formula(
    c: int, weighted: bool, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more heads than are taken at a time, each near the optimum of its own penalty or far away."""
    if not kept:
        monkeypatch.setattr(duality_gap, "_KEPT_BYTES", 1)
    x, y = (torch.as_tensor(part) for part in made(900, 6, c, 1.0))
    counts = of_mean_one(torch.linspace(0.5, 2, c), y) if weighted else None
    each = np.ones(900) if counts is None else counts[y].numpy()
    l2 = torch.logspace(-3, 1, 9, dtype=torch.float64)
    best = Logistic().solve(x, y, c, l2, weights=counts)
    noise, away = torch.Generator().manual_seed(0), torch.tensor([0.0, 0.02, 30.0]).repeat(3)
    weight = best.weight.double() + away.view(9, 1, 1) * torch.randn(best.weight.shape, generator=noise).double()
    bias = best.bias.double() + away.view(9, 1) * torch.randn(best.bias.shape, generator=noise).double()
    found = certify(x, y, weight, bias, l2, counts)
    for i in range(9):
        slow = slow_bound(x.double().numpy(), y.numpy(), weight[i].numpy(), bias[i].numpy(), float(l2[i]), each)
        assert float(found.bound[i]) == pytest.approx(slow, abs=1e-9)
        assert (slow > 0) == (away[i] < 1)
    assert (found.bound <= best.objective + 1e-9).all()


@pytest.mark.parametrize("c", [2, 3, 70])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("separation", [0.5, 40.0])
def test_in_float32_it_is_the_same_up_to_rounding(c: int, weighted: bool, separation: float) -> None:
    """Also where the classes are so far apart that a sample's loss is nearly nothing."""
    x, y = (torch.as_tensor(part) for part in made(1400, 12, c, separation))
    counts = of_mean_one(torch.linspace(0.5, 2, c), y) if weighted else None
    l2 = torch.tensor([1e-6, 1e-2], dtype=torch.float64)
    best = Logistic(tolerance=1e-2).solve(x, y, c, l2, weights=counts)
    heads = best.weight.double(), best.bias.double()
    exact = certify(x, y, *heads, l2, counts)
    found = certify(x.float(), y, *heads, l2, counts, torch.float32)
    assert found.objective.dtype == found.bound.dtype == torch.float64
    assert bool((exact.bound > 0).all())
    torch.testing.assert_close(found.objective, exact.objective, rtol=2e-6, atol=0)
    torch.testing.assert_close(found.bound, exact.bound, rtol=1e-5, atol=0)
    assert bool((found.separated == exact.separated).all())


def test_an_own_score_beyond_all_numbers_proves_nothing() -> None:
    """The difference of two infinite scores is no number, as the other classes' are below all numbers."""
    loss, highest = duality_gap._log_total(
        torch.tensor([[[math.nan], [-math.inf], [-math.inf]]]), torch.zeros(1, 1, 1, dtype=torch.int64)
    )
    assert loss.isnan().all()
    assert highest.isnan().all()
