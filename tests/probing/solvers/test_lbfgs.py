from __future__ import annotations

import math

import pytest
import torch

from layerprobe.probing.solvers.lbfgs import ClassAxes, Pair, Pairs, Point, Readout, minimise, tried
from layerprobe.probing.solvers.softmax_objective import Evaluation


def quadratic(size: int, l2: float, condition: float):
    """½ xᵀHx - bᵀx + ½·l2·‖x without its last column‖²."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    hessian = (turn * torch.logspace(0, math.log10(condition), size, dtype=torch.float64)) @ turn.T
    target = torch.randn(size, generator=generator, dtype=torch.float64)
    penalty = torch.full((size,), l2, dtype=torch.float64)
    penalty[-1] = 0
    offset = 0.5 * float(target @ torch.linalg.inv(hessian) @ target) + 1

    def evaluate(heads, l2, curvature):
        x = heads[0, 0]
        gradient = hessian @ x - target + penalty * x
        value = 0.5 * x @ hessian @ x - target @ x + 0.5 * (penalty * x) @ x + offset
        return Evaluation(value[None], gradient[None, None], torch.eye(1).double()[None])

    return evaluate, torch.linalg.solve(hessian + torch.diag(penalty), target), hessian


def solve(evaluate, size, l2, *, max_iterations=300, pairs=None, least_gain=0.0):
    value = torch.tensor([l2], dtype=torch.float64)
    first = evaluate(torch.zeros(1, 1, size, dtype=torch.float64), value, True)
    axes = ClassAxes.of(first.curvature[0])
    start = Point(torch.zeros(1, size).double(), float(first.objective), first.gradient[0], axes, 1.0)
    pairs = Pairs(12, start.head) if pairs is None else pairs
    pairs.move(value)
    return minimise(
        start,
        tried(evaluate, lambda a, turn, l2: lambda v: v.clone(), pairs),
        lambda found, a: math.sqrt(found.square + float(found.slope.square().sum())),
        pairs,
        l2,
        target=1e-10,
        max_iterations=max_iterations,
        patience=300,
        refresh=lambda i: True,
        least_gain=least_gain,
    )


def test_finds_the_minimum_of_a_quadratic():
    evaluate, best, _ = quadratic(20, 0.3, 100.0)
    point, spent = solve(evaluate, 20, 0.3)
    torch.testing.assert_close(point.head[0], best)
    assert spent < 120


@pytest.mark.parametrize("overflows", [0, 9])
def test_ends_where_a_whole_step_would_bring_little_but_not_at_a_short_one(overflows):
    """A step of which a small part is taken, since more of it overflows, brings little of what it promises."""
    evaluate, best, _ = quadratic(20, 0.3, 100.0)
    calls = []

    def overflowing(heads, l2, curvature):
        calls.append(evaluate(heads, l2, curvature))
        if 1 < len(calls) <= 1 + overflows:
            return Evaluation(torch.full((1,), torch.inf).double(), calls[-1].gradient, calls[-1].curvature)
        return calls[-1]

    point, spent = solve(overflowing, 20, 0.3, least_gain=1e-3)
    least = float(evaluate(best[None, None], torch.tensor([0.3]), True).objective)
    assert least < point.objective < 1.01 * least
    assert spent < solve(evaluate, 20, 0.3)[1]


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
    l2 = torch.tensor([0.7], dtype=torch.float64)
    pairs = Pairs(60, torch.zeros(1, 5).double())
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.eigh(hessian)[1]  # conjugate directions: the secant conditions then hold together
    for vector in basis.T:
        pairs.add(
            pairs.pair(vector[None], torch.zeros(1, 5).double(), (hessian @ vector)[None], torch.zeros(1).double())
        )
    gradient = torch.randn(5, generator=generator, dtype=torch.float64)
    newest = torch.tensor(pairs.newest)
    torch.testing.assert_close(
        pairs.direction(gradient[None], newest, lambda v: v.clone())[0], -torch.linalg.solve(hessian, gradient)
    )
    pairs.move(l2)
    step = pairs.direction(gradient[None], newest, lambda v: v.clone())
    assert float((step[0] * gradient).sum()) < 0


def two_loops(steps, changes, gradient):
    """Nocedal's recursion, pair by pair, from the unit matrix scaled by the newest pair."""
    q, shares = gradient.clone(), []
    for s, y in zip(reversed(steps), reversed(changes), strict=True):
        shares.append(float(s @ q) / float(s @ y))
        q -= shares[-1] * y
    z = q * float(steps[-1] @ changes[-1]) / float(changes[-1] @ changes[-1])
    for s, y, share in zip(steps, changes, reversed(shares), strict=True):
        z += s * (share - float(y @ z) / float(s @ y))
    return -z


@pytest.mark.parametrize("memory", [4, 16, 40])
@pytest.mark.parametrize("kept", [1, 3, 4, 9, 15, 16, 17, 33, 50])
def test_the_two_systems_are_the_two_loops(kept, memory):
    """Before the memory is full, when it is, and after pairs have made way."""
    _, _, hessian = quadratic(7, 0.0, 4.0)
    hessian = hessian / hessian.trace() * 7
    generator = torch.Generator().manual_seed(2)
    steps = torch.randn(kept, 7, generator=generator, dtype=torch.float64)
    changes, pairs = steps @ hessian, Pairs(memory, torch.zeros(1, 7).double())
    for step, change in zip(steps, changes, strict=True):
        pairs.add(pairs.pair(step[None], torch.zeros(1, 7).double(), change[None], torch.zeros(1).double()))
    gradient = torch.randn(7, generator=generator, dtype=torch.float64)
    found = pairs.direction(gradient[None], torch.tensor(pairs.newest), lambda v: v.clone())[0]
    torch.testing.assert_close(found, two_loops(steps[-memory:], changes[-memory:], gradient))


def test_without_a_pair_the_metric_is_taken_as_it_is():
    pairs, gradient = Pairs(4, torch.zeros(1, 3).double()), torch.tensor([[1.0, 2.0, 3.0]]).double()
    torch.testing.assert_close(pairs.direction(gradient, torch.tensor(-1), lambda v: 5 * v), -5 * gradient)


def test_a_pair_whose_curvature_is_lost_is_told():
    pairs, nothing = Pairs(3, torch.zeros(2, 3).double()), torch.zeros(1).double()

    def curved(step, change):
        return Pair.curved(pairs.pair(step, torch.zeros(2, 3).double(), change, nothing).products.tolist())

    ones = torch.ones(2, 3).double()
    assert curved(ones, ones)
    assert not curved(ones, torch.zeros(2, 3).double())
    assert not curved(ones, -ones)
    assert not curved(ones, torch.full((2, 3), torch.nan).double())


def test_stops_when_told():
    evaluate, _, _ = quadratic(20, 0.1, 1e4)
    assert solve(evaluate, 20, 0.1, max_iterations=7)[1] == 7


def test_an_uphill_step_is_followed_by_the_metrics_own():
    evaluate, best, _ = quadratic(6, 0.5, 10.0)
    pairs = Pairs(12, torch.zeros(1, 6).double())
    known, calls = pairs.direction, []

    def misled(gradient, newest, metric):
        calls.append(None)
        return gradient.clone() if len(calls) == 1 else known(gradient, newest, metric)

    pairs.direction = misled
    point, _ = solve(evaluate, 6, 0.5, pairs=pairs)
    torch.testing.assert_close(point.head[0], best)


def test_what_is_not_finite_is_said_and_not_decomposed():
    gradient = torch.tensor([[[1.0, torch.nan]]], dtype=torch.float64)
    found = Readout.of(Evaluation(torch.ones(1).double(), gradient, torch.full((1, 1, 1), torch.inf).double()), 0)
    assert not found.finite
    assert found.curvature is not None
    assert found.curvature.values.isnan().all()
