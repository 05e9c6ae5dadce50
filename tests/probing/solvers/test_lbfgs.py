from __future__ import annotations

import math

import torch

from layerprobe.probing.solvers.lbfgs import ClassAxes, Measured, Pairs, Point, fetched, minimise
from layerprobe.probing.solvers.softmax import Evaluation


def quadratic(size: int, l2: float, condition: float):
    """½ xᵀHx - bᵀx + ½·l2·‖x without its last column‖²."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    hessian = (turn * torch.logspace(0, math.log10(condition), size, dtype=torch.float64)) @ turn.T
    target = torch.randn(size, generator=generator, dtype=torch.float64)
    penalty = torch.full((size,), l2, dtype=torch.float64)
    penalty[-1] = 0
    offset = 0.5 * float(target @ torch.linalg.inv(hessian) @ target) + 1

    def evaluate(head, curvature):
        x = head[0]
        gradient = hessian @ x - target + penalty * x
        value = 0.5 * x @ hessian @ x - target @ x + 0.5 * (penalty * x) @ x + offset
        return Evaluation(value[None], gradient[None, None], torch.eye(1).double()[None])

    return evaluate, torch.linalg.solve(hessian + torch.diag(penalty), target), hessian


def solve(evaluate, size, l2, *, max_iterations=300, pairs=None):
    first = evaluate(torch.zeros(1, size, dtype=torch.float64), True)
    axes = ClassAxes.of(first.curvature[0])
    start = Point(torch.zeros(1, size).double(), float(first.objective), first.gradient[0], axes, 1.0)
    return minimise(
        start,
        evaluate,
        lambda found, a: math.sqrt(found.square + float(found.slope.square().sum())),
        lambda a: lambda v: v.clone(),
        Pairs(12, start.head) if pairs is None else pairs,
        l2,
        target=1e-10,
        max_iterations=max_iterations,
        patience=300,
        refresh=lambda i: True,
    )


def test_finds_the_minimum_of_a_quadratic():
    evaluate, best, _ = quadratic(20, 0.3, 100.0)
    point, spent = solve(evaluate, 20, 0.3)
    torch.testing.assert_close(point.head[0], best)
    assert spent < 120


def test_pairs_found_at_one_penalty_serve_at_another():
    pairs = Pairs(30, torch.zeros(1, 12).double())
    evaluate, _, _ = quadratic(12, 1.0, 50.0)
    solve(evaluate, 12, 1.0, pairs=pairs)
    evaluate, best, _ = quadratic(12, 1e-3, 50.0)
    cold = solve(evaluate, 12, 1e-3)[1]
    point, warm = solve(evaluate, 12, 1e-3, pairs=pairs)
    torch.testing.assert_close(point.head[0], best)
    assert warm < cold


def test_as_many_pairs_as_unknowns_give_newtons_step():
    _, _, hessian = quadratic(5, 0.0, 30.0)
    l2 = 0.7
    pairs = Pairs(60, torch.zeros(1, 5).double())
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.eigh(hessian)[1]  # conjugate directions: the secant conditions then hold together
    for vector in basis.T:
        pairs.add(vector[None], (hessian @ vector)[None])
    gradient = torch.randn(5, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        pairs.direction(gradient[None], 0.0, lambda v: v.clone())[0], -torch.linalg.solve(hessian, gradient)
    )
    step = pairs.direction(gradient[None], l2, lambda v: v.clone())
    assert float((step[0] * gradient).sum()) < 0


def test_a_pair_without_curvature_is_not_kept():
    pairs = Pairs(3, torch.zeros(2, 3).double())
    pairs.add(torch.ones(2, 3).double(), torch.zeros(2, 3).double())
    pairs.add(torch.ones(2, 3).double(), -torch.ones(2, 3).double())
    assert not pairs.order


def test_stops_when_told():
    evaluate, _, _ = quadratic(20, 0.1, 1e4)
    assert solve(evaluate, 20, 0.1, max_iterations=7)[1] == 7


def test_an_uphill_step_is_followed_by_the_metrics_own():
    evaluate, best, _ = quadratic(6, 0.5, 10.0)
    pairs = Pairs(12, torch.zeros(1, 6).double())
    known, first = pairs.direction, []

    def misled(gradient, l2, metric):
        first.append(None)
        return gradient.clone() if len(first) == 1 else known(gradient, l2, metric)

    pairs.direction = misled
    point, _ = solve(evaluate, 6, 0.5, pairs=pairs)
    torch.testing.assert_close(point.head[0], best)


def test_what_is_read_together_keeps_its_shape():
    a, b, c = fetched(torch.ones(2, 3), torch.tensor(2.0), torch.zeros(0))
    assert (a.shape, b.shape, c.shape) == ((2, 3), (), (0,))
    assert a.dtype == torch.float64


def test_what_is_not_finite_is_said_and_not_decomposed():
    gradient = torch.tensor([[[1.0, torch.nan]]], dtype=torch.float64)
    found = Measured.of(Evaluation(torch.ones(1).double(), gradient, torch.full((1, 1, 1), torch.inf).double()), 0)
    assert not found.finite
    assert found.curvature is not None
    assert found.curvature.values.isnan().all()
