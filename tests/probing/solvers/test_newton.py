"""Newton's method against slow references in float64, on the data that is hard for it."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch

from helpers.reference import made, softmax_objective, softmax_regression
from layerprobe.probing.solvers import newton
from layerprobe.probing.solvers.l2_path import Samples
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.newton import LARGEST, Newton, newton_bytes, possible, worth_newton
from layerprobe.probing.solvers.softmax_objective import basis
from layerprobe.probing.solvers.solution import Status
from layerprobe.probing.solvers.solver import of_mean_one
from layerprobe.probing.solvers.spectrum import Spectrum

L2 = torch.tensor([1e-12, 1e-6, 1e-3, 0.3, 10.0, 1e6], dtype=torch.float64)


def collinear(c: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = made(200, 6, c, 0.5)
    return np.concatenate([x, x[:, :3], 2 * x[:, 3:]], 1), y


def with_constants(c: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = made(200, 8, c, 0.5)
    return np.concatenate([x, np.zeros((200, 1), np.float32), np.full((200, 1), 3, np.float32)], 1), y


def unbalanced(c: int) -> tuple[np.ndarray, np.ndarray]:
    x, _ = made(400, 10, 2, 0.5)
    return x, np.where(np.arange(400) % 100 == 0, 1 + np.arange(400) // 100 % (c - 1), 0)


def unscaled(c: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = made(200, 8, c, 0.5)
    return (x * np.logspace(-2, 1, 8) + 2).astype(np.float32), y


PROBLEMS = {
    "mixed": lambda c: made(250, 12, c, 0.5),
    "separable": lambda c: made(150, 20, c, 8.0),
    "one feature": lambda c: made(200, 1, c, 0.5),
    "collinear": collinear,
    "constant features": with_constants,
    "few of many": unbalanced,
    "unscaled": unscaled,
    "more features than samples": lambda c: made(40, 90, c, 0.5),
}


def tensors(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.as_tensor(x), torch.as_tensor(y)


@pytest.mark.parametrize(("problem", "c"), itertools.product(PROBLEMS, (2, 3)))
def test_every_value_is_at_the_optimum_of_a_slow_reference(problem: str, c: int) -> None:
    x, y = PROBLEMS[problem](c)
    features, targets = tensors(x, y)
    found = Logistic().solve(features, targets, c, L2)
    # In float32 nothing is said of 1e-12 on data whose objective is rounding there.
    assert found.status[1:] == (Status.CONVERGED,) * (len(L2) - 1)
    for i in (1, 2, 3, 5):
        best = softmax_regression(x, y, c, float(L2[i]), 1e-9)[2]
        ours = softmax_objective(found.weight[i].numpy(), found.bias[i].numpy(), x, y, float(L2[i]))
        assert -1e-7 <= ours / best - 1 <= 2e-5
        assert (ours - best) / ours <= float(found.gap[i]) + 1e-7


@pytest.mark.parametrize("c", [2, 3])
def test_float64_features_to_many_digits(c: int) -> None:
    x, y = made(200, 15, c, 0.5)
    found = Logistic(tolerance=1e-12).solve(torch.as_tensor(x).double(), torch.as_tensor(y), c, L2[1:4])
    assert set(found.status) == {Status.CONVERGED}
    for i in range(3):
        weight, bias, _ = softmax_regression(x, y, c, float(L2[1 + i]), 1e-12)
        np.testing.assert_allclose(found.weight[i] - found.weight[i].mean(0), weight - weight.mean(0), atol=2e-4)
        np.testing.assert_allclose(found.bias[i] - found.bias[i].mean(), bias - bias.mean(), atol=2e-4)


@pytest.mark.parametrize("weights", [None, torch.tensor([2.0, 0.5, 1.0, 0.7])], ids=["equal", "weighted"])
@pytest.mark.parametrize("c", [2, 4])
def test_gradient_and_hessian_are_those_of_differences(
    c: int, weights: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newton, "_BLOCK", 150)  # several blocks of samples, and parts of them
    x, y = tensors(*made(60, 5, c, 1.0))
    counts = None if weights is None else of_mean_one(weights[:c], y)
    path, l2, width = (
        Newton(Samples(x.double(), y, c, torch.float64, weights=counts), 1e-6, 100, partial(Spectrum.of, x)),
        0.1,
        1e-5,
    )
    head = np.random.default_rng(0).normal(size=(c - 1, 6))
    point = path._at(head[None], l2, torch.float64)[0]
    if counts is None:
        full = basis(c, torch.float64, torch.device("cpu")).numpy() @ head
        expected = softmax_objective(full[:, :-1], full[:, -1], x.double().numpy(), y.numpy(), l2)
        assert point.objective == pytest.approx(expected)

    moves = width * np.eye(head.size).reshape(-1, *head.shape)
    ahead, behind = (path._at(head + sign * moves, l2, torch.float64) for sign in (1, -1))
    slopes = np.array([a.objective - b.objective for a, b in zip(ahead, behind, strict=True)]) / (2 * width)
    np.testing.assert_allclose(point.gradient.ravel(), slopes, rtol=1e-6, atol=1e-7)

    path._make(point)
    assert path._hessian is not None
    hessian = np.stack([(a.gradient - b.gradient).ravel() for a, b in zip(ahead, behind, strict=True)]) / 2 / width
    penalty = np.diag(np.tile(l2 * path._penalised, c - 1))
    np.testing.assert_allclose(np.tril(path._hessian.numpy() + penalty), np.tril(hessian), rtol=1e-6, atol=1e-7)
    vector = np.random.default_rng(1).normal(size=head.shape)
    product = path._product(point.shares, vector, l2, torch.float64)
    np.testing.assert_allclose(product.ravel(), hessian @ vector.ravel(), rtol=1e-6, atol=1e-7)


def test_a_hessian_is_made_where_products_have_cost_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = tensors(*made(300, 40, 2, 2.0, decay=1.0))
    made_at: list[float] = []
    make = Newton._make
    monkeypatch.setattr(Newton, "_make", lambda path, point: made_at.append(point.gap) or make(path, point))
    found = Logistic().solve(x, y, 2, L2[1:4])
    assert made_at
    made_at.clear()
    monkeypatch.setattr(newton, "products_worth", lambda n, size, m: (math.inf, math.inf))
    without = Logistic().solve(x, y, 2, L2[1:4])
    assert not made_at
    assert set(found.status) == set(without.status) == {Status.CONVERGED}
    assert int(found.iterations.sum()) < int(without.iterations.sum())
    torch.testing.assert_close(found.objective, without.objective, rtol=2e-5, atol=0)


def test_no_penalty_is_left_to_the_first_way() -> None:
    x, y = tensors(*made(200, 5, 2, 0.5))
    found = Logistic().solve(x, y, 2, torch.tensor([1e-2, 0.0], dtype=torch.float64))
    assert found.status == (Status.CONVERGED,) * 2


def test_ends_where_it_is_told_and_where_evaluations_run_out() -> None:
    x, y = tensors(*made(300, 30, 2, 0.5))
    seen: list[torch.Tensor] = []

    def stop(weight: torch.Tensor, bias: torch.Tensor) -> bool:
        seen.append(weight)
        return len(seen) == 3

    found = Logistic().solve(x, y, 2, L2, stop=stop)
    assert found.status == (Status.SKIPPED,) * 3 + (Status.CONVERGED,) * 3
    assert found.weight[:3].isnan().all()
    assert Logistic(max_iterations=1).solve(x, y, 2, L2[1:2]).status == (Status.STALLED,)


def test_features_that_are_not_finite_are_told() -> None:
    x, y = tensors(*made(50, 3, 2, 0.5))
    x[7, 1] = torch.inf
    assert Logistic().solve(x, y, 2, L2[:1]).status == (Status.DIVERGED,)


@pytest.mark.parametrize(("n", "d", "c"), [(700, 1200, 2), (450, 420, 4)])
def test_wide_heads_of_few_samples_reach_the_same_optimum(
    monkeypatch: pytest.MonkeyPatch, n: int, d: int, c: int
) -> None:
    x, y = tensors(*made(n, d, c, 0.3))
    l2 = torch.tensor([1.0, 1e-3, 1e-5], dtype=torch.float64)
    assert worth_newton(n, d, c)
    found = Logistic().solve(x, y, c, l2)
    monkeypatch.setattr(newton, "SAMPLE_BYTES", 0)
    without = Logistic().solve(x, y, c, l2)
    assert found.status == without.status == (Status.CONVERGED,) * 3
    torch.testing.assert_close(found.objective, without.objective, rtol=2e-5, atol=0)


@pytest.mark.parametrize("n", [90, 500])
@pytest.mark.parametrize("worth", [0.0, math.inf])
def test_two_classes_of_more_features_than_samples_reach_the_same_optimum(
    monkeypatch: pytest.MonkeyPatch, n: int, worth: float
) -> None:
    """In the features' axes and, once products have cost as much, in the samples' span; some samples stand twice."""
    x, y = tensors(*made(n, 1100, 2, 0.3, decay=1.0))
    x[-20:], y[-20:] = x[:20], y[:20]
    l2 = torch.tensor([1e-1, 1e-3, 1e-5, 1e-7], dtype=torch.float64)
    entered, decomposed = [], []
    enter, of = Newton._into_span, Spectrum.of

    def once() -> Spectrum:
        decomposed.append(of(x))
        return decomposed[-1]

    monkeypatch.setattr(newton, "span_worth", lambda n, d: worth)
    monkeypatch.setattr(Newton, "_into_span", lambda path, head: entered.append(1) or enter(path, head))
    found = Logistic().solve(x, y, 2, l2, once)
    assert len(entered) == len(decomposed) == (worth == 0), "a spectrum is only made where a span is wanted"
    monkeypatch.setattr(newton, "SAMPLE_BYTES", 0)
    without = Logistic().solve(x, y, 2, l2)
    assert found.status == without.status == (Status.CONVERGED,) * 4
    torch.testing.assert_close(found.objective, without.objective, rtol=2e-5, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_where_single_precision_only_moves_by_its_rounding_double_goes_on(seed: int) -> None:
    x, y = tensors(*made(1500, 100, 4, 0.5, seed, decay=3.0))
    found = Logistic(max_iterations=150).solve(x, y, 4, torch.tensor([1e-3, 1e-5, 1e-7], dtype=torch.float64))
    assert found.status == (Status.CONVERGED,) * 3


def test_what_newton_s_steps_leave_short_is_fitted_by_l_bfgs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = tensors(*made(300, 30, 2, 0.5))
    reached = Logistic().solve(x, y, 2, L2[2:5])

    def stays(self: Newton, point: newton._Point, *_: object) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(point.head), 1

    monkeypatch.setattr(Newton, "_descend", stays)
    found = Logistic().solve(x, y, 2, L2[2:5])
    assert found.status == (Status.CONVERGED,) * 3
    torch.testing.assert_close(found.objective, reached.objective, rtol=2e-5, atol=0)


def test_steps_are_newton_s_where_they_are_worth_it() -> None:
    assert worth_newton(1 << 15, LARGEST - 1, 2), "few parameters, whatever the samples"
    assert not worth_newton(1 << 15, LARGEST, 2) and worth_newton(1 << 14, LARGEST, 2)
    assert worth_newton(3500, 4096, 2) and worth_newton(1200, 4096, 2), "a language model's layer"
    assert worth_newton(4000, 8002, 2) and not worth_newton(4000, 8000, 2), "in the span of fewer samples"
    assert not worth_newton(4352, 8705, 2) and not worth_newton(1200, 4096, 3)
    assert worth_newton(900, 400, 10) and not worth_newton(400, 401, 4), "more features than samples"
    assert not worth_newton(1 << 20, 100, 2), "no room for the samples"
    assert worth_newton(10, 20, 32) and not worth_newton(10, 20, 33)
    assert possible(torch.zeros(10, 20), 32) and not possible(torch.zeros(10, 20, device="meta"), 32)


def test_the_room_that_is_told_is_that_of_the_most_samples_and_parameters() -> None:
    assert newton_bytes(4000, 2) > 32 * 4001**2
    assert newton_bytes(4000, 2) >= newton_bytes(4000, 2, 8000) > newton_bytes(4000, 2, 3000)
    assert newton_bytes(20, 33) == newton_bytes(1 << 13, 3) == newton_bytes(1 << 13, 2, 4096) == 0
    assert newton_bytes(1 << 13, 2) >= newton_bytes(1 << 13, 2, 4090) > 32 * 4090**2


def test_a_hessian_is_made_in_the_room_that_is_told() -> None:
    x, y = tensors(*made(60_000, 3, 10, 0.5))
    path = Newton(Samples(x, y, 10, torch.float32), 1e-6, 100, partial(Spectrum.of, x))
    point = path._at(np.zeros((1, 9, 4)), 0.1, torch.float32)[0]
    tracemalloc.start()
    path._make(point)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 8 * newton._BLOCK < newton_bytes(3, 10, 60_000)


def test_features_far_from_their_mean_take_few_passes() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 20, generator=g) + 300
    y = (x[:, 0] - 300 + torch.randn(2000, generator=g) > 0).long()
    found = Logistic().solve(x, y, 2, L2[1:5])
    assert set(found.status) == {Status.CONVERGED}
    assert int(found.iterations.max()) < 50
    exact = Logistic(tolerance=1e-10).solve(x.double() - x.double().mean(0), y, 2, L2[1:5])
    torch.testing.assert_close(found.objective, exact.objective, rtol=1e-5, atol=0)


@pytest.mark.parametrize("offset", [1e3, 1e4])
@pytest.mark.parametrize("d", [2, 10])
def test_rough_fits_of_features_far_from_0_take_few_passes_too(d: int, offset: float) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, d, generator=g)
    y = (x[:, 0] + torch.randn(300, generator=g) > 0).long()
    x[:, -1] = 0
    rough = Logistic().solve(x + offset, y, 2, torch.logspace(-7, 1, 5, dtype=torch.float64), rough=True)
    assert int(rough.iterations.max()) < 50
    assert rough.certify is not None
    certified = rough.certify([0, 2])
    assert [certified.status[0], certified.status[2]] == [Status.CONVERGED] * 2


def test_a_step_makes_one_hessian_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    made_in: list[int] = []
    step, make = Newton._step, Newton._make
    monkeypatch.setattr(Newton, "_make", lambda path, point: (made_in.append(made_in.pop() + 1), make(path, point))[1])
    monkeypatch.setattr(Newton, "_step", lambda path, *args: (made_in.append(0), step(path, *args))[1])
    x, y = tensors(*made(300, 10, 2, 0.5))
    found = Logistic().solve(x + 1e4, y, 2, torch.logspace(-7, 1, 5, dtype=torch.float64))
    assert max(made_in) == 1
    assert int(found.iterations.max()) < 50


@pytest.mark.parametrize("c", [2, 3])
def test_goes_on_in_float64_where_the_samples_own_precision_stands_still(c: int) -> None:
    x, y = tensors(*made(300, 15, c, 0.5))
    path = Newton(Samples(x, y, c, torch.float32), 1e-13, 500, partial(Spectrum.of, x))
    head, _ = path.fitting()(path.zero[None], 1e-4, path.target, 500)
    assert path._at(head[None].numpy(), 1e-4, torch.float64)[0].gap <= 1e-13
    alone = path._at(head[None].numpy(), 1e-4, torch.float32)[0].gap
    assert alone > 1e-13
