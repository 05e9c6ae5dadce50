from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.reference import made
from layerprobe.probing.solvers.duality_gap import certify
from layerprobe.probing.solvers.softmax_objective import SoftmaxObjective, basis, covariance


def problem(n=700, d=9, c=4, p=3, seed=0):
    features, targets = made(n, d, c, 0.8, seed)
    generator = torch.Generator().manual_seed(seed)
    heads = torch.randn(p, c - 1, d + 1, generator=generator, dtype=torch.float64)
    l2 = torch.tensor([1e-3, 0.0, 2.0], dtype=torch.float64)[:p]
    return torch.as_tensor(features), torch.as_tensor(targets), c, heads, l2


def by_autograd(features, targets, c, head, l2):
    head = head.clone().requires_grad_()
    full = basis(c, torch.float64, head.device) @ head
    scores = features.double() @ full[:, :-1].T + full[:, -1]
    value = torch.nn.functional.cross_entropy(scores, targets) + 0.5 * l2 * head[:, :-1].square().sum()
    value.backward()
    q = scores.detach().softmax(1)
    return value.detach(), head.grad, torch.diag(q.mean(0)) - q.T @ q / len(q)


@pytest.mark.parametrize("c", [2, 3, 10, 64])
def test_the_basis_is_orthonormal_and_leaves_out_the_common_shift(c):
    q = basis(c, torch.float64, torch.device("cpu"))
    torch.testing.assert_close(q.T @ q, torch.eye(c - 1, dtype=torch.float64))
    torch.testing.assert_close(q.sum(0), torch.zeros(c - 1, dtype=torch.float64))


@pytest.mark.parametrize("n", [1, 5, 700, 4099, 5000])
@pytest.mark.parametrize("c", [2, 4, 70])
def test_agrees_with_autograd(n, c):
    features, targets, c, heads, l2 = problem(max(n, c), 9, c)
    features, targets = features[:n], targets[:n]
    found = SoftmaxObjective(features, targets, c, torch.float64)(heads, l2, True)
    for i in range(3):
        value, gradient, a = by_autograd(features, targets, c, heads[i], l2[i])
        torch.testing.assert_close(found.objective[i], value)
        torch.testing.assert_close(found.gradient[i], gradient)
        q = basis(c, torch.float64, a.device)
        torch.testing.assert_close(found.curvature[i], q.T @ a @ q)


def test_float32_keeps_the_digits_of_a_small_loss():
    features, targets = made(500, 8, 3, 6.0)
    x, y = torch.as_tensor(features), torch.as_tensor(targets)
    means = torch.stack([x[y == k].mean(0) for k in range(3)]).double()
    head = basis(3, torch.float64, x.device).T @ torch.cat([means, -0.5 * means.square().sum(1, keepdim=True)], 1)
    heads, l2 = (2 * head)[None].float(), torch.zeros(1, dtype=torch.float64)
    exact = SoftmaxObjective(x, y, 3, torch.float64)(heads.double(), l2, True)
    single = SoftmaxObjective(x, y, 3, torch.float32)(heads, l2, True)
    assert 1e-8 < exact.objective < 1e-4
    np.testing.assert_allclose(single.objective, exact.objective, rtol=1e-3)
    np.testing.assert_allclose(single.gradient, exact.gradient, rtol=0, atol=1e-3 * float(exact.gradient.abs().max()))
    np.testing.assert_allclose(single.curvature, exact.curvature, rtol=1e-3)


def test_scores_far_apart_overflow_nowhere():
    features, targets, c, heads, l2 = problem()
    found = SoftmaxObjective(features, targets, c, torch.float32)(1e4 * heads.float(), l2, True)
    assert torch.isfinite(found.objective).all()
    assert torch.isfinite(found.gradient).all()
    value, _, _ = by_autograd(features, targets, c, (1e4 * heads.float()).double()[1], l2[1])
    np.testing.assert_allclose(found.objective[1], value, rtol=1e-5)


def test_separated_is_strict():
    x = torch.tensor([[1.0], [-1.0], [0.0]])
    y = torch.tensor([0, 1, 1])
    weight, bias, l2 = torch.tensor([[[1.0], [-1.0]]]).double(), torch.zeros(1, 2).double(), torch.zeros(1).double()
    assert not certify(x, y, weight, bias, l2).separated
    assert certify(x[:2], y[:2], weight, bias, l2).separated


def test_covariance_has_rows_that_sum_to_zero():
    q = torch.rand(2, 5, 7, dtype=torch.float64).softmax(1)
    found = covariance(-(q @ q.mT) / 7)
    torch.testing.assert_close(found.sum(2), torch.zeros(2, 5, dtype=torch.float64))
    torch.testing.assert_close(found, torch.diag_embed(q.mean(2)) - q @ q.mT / 7)


class TestCertificate:
    def test_any_head_has_a_bound_below_any_other_heads_objective(self):
        features, targets, c, heads, _ = problem(p=3)
        l2 = torch.full((3,), 0.3, dtype=torch.float64)
        for scale in (0.01, 0.1, 1.0):
            full = basis(c, torch.float64, heads.device) @ (scale * heads)
            found = certify(features, targets, full[:, :, :-1].contiguous(), full[:, :, -1].contiguous(), l2)
            assert (found.bound >= 0).all()
            assert found.bound.max() <= found.objective.min()

    def test_the_gap_is_the_gradients_square_where_the_bias_is_optimal(self):
        features, targets, c, heads, _ = problem(p=1)
        l2 = torch.tensor([3.0], dtype=torch.float64)
        head = 0.02 * heads
        objective = SoftmaxObjective(features, targets, c, torch.float64)
        for _ in range(30):
            now = objective(head, l2, True)
            head[0, :, -1] -= torch.linalg.solve(now.curvature[0], now.gradient[0, :, -1])
        now = objective(head, l2, True)
        full = basis(c, torch.float64, heads.device) @ head
        found = certify(features, targets, full[:, :, :-1].contiguous(), full[:, :, -1].contiguous(), l2)
        torch.testing.assert_close(found.objective, now.objective)
        expected = now.gradient[:, :, :-1].square().sum((1, 2)) / (2 * l2)
        torch.testing.assert_close(found.objective - found.bound, expected)
        torch.testing.assert_close(found.slope, now.gradient.square().sum((1, 2)).sqrt())

    def test_a_bias_far_off_leaves_no_bound_but_zero(self):
        features, targets, c, heads, _ = problem(p=1)
        full = basis(c, torch.float64, heads.device) @ (0.01 * heads)
        bias = torch.tensor([[30.0, -10.0, -10.0, -10.0]], dtype=torch.float64)
        found = certify(
            features, targets, full[:, :, :-1].contiguous(), bias, torch.tensor([1e-2], dtype=torch.float64)
        )
        assert found.bound == 0
