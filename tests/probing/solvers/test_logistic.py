from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from helpers.reference import logistic_objective, logistic_optimum
from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.solvers import newton
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.solution import Solution, Status
from layerprobe.probing.solvers.spectrum import Spectrum

L2 = torch.logspace(-6, 1, 12, dtype=torch.float64)


def standardised(x: Tensor) -> Tensor:
    return Standardiser.fit(x).apply_(x.clone())


def made(n: int, d: int, c: int, apart: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Skewed, correlated features; classes further apart for larger `apart`."""
    g = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.arange(c), torch.randint(c, (n - c,), generator=g)])
    scale = torch.arange(1, d + 1) ** -0.7
    x = (torch.randn(n, d, generator=g) + apart * torch.randn(c, d, generator=g)[y]) * scale
    return standardised(torch.relu(x @ torch.linalg.qr(torch.randn(d, d, generator=g))[0] + 0.3)), y


def real(load) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    x, y = load(return_X_y=True)
    return standardised(torch.tensor(x, dtype=torch.float32)), torch.tensor(y)


def objectives(x: Tensor, y: Tensor, solution: Solution, l2: Tensor) -> list[float]:
    """The objective at the heads that were returned, computed elsewhere."""
    heads = zip(solution.weight.numpy(), solution.bias.numpy(), l2.tolist(), strict=True)
    return [logistic_objective(x.numpy(), y.numpy(), w, b, value) for w, b, value in heads]


CASES = {
    "digits": lambda: real(load_digits),
    "wine, separable": lambda: real(load_wine),
    "breast cancer, two classes": lambda: real(load_breast_cancer),
    "overlapping": lambda: made(600, 20, 5, 0.3),
    "separable": lambda: made(300, 40, 4, 3.0),
    "more features than samples": lambda: made(60, 200, 3, 0.5),
}


@pytest.mark.parametrize("case", CASES)
def test_objective_is_scikit_learns_or_lower_at_every_l2(case: str) -> None:
    x, y = CASES[case]()
    solution = Logistic().solve(x, y, int(y.max()) + 1, L2)
    assert set(solution.status) == {Status.CONVERGED}
    wide = x.double().numpy()
    start = None
    for l2, objective in reversed(list(zip(L2.tolist(), objectives(x, y, solution, L2), strict=True))):
        head = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-6, max_iter=5_000, warm_start=True)
        if start is not None:
            head.coef_, head.intercept_, head.classes_ = start
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head.fit(wide, y.numpy())
        start = (head.coef_, head.intercept_, head.classes_)
        two = head.coef_.shape[0] == 1
        weight = np.vstack([-head.coef_, head.coef_]) / 2 if two else head.coef_
        bias = np.concatenate([-head.intercept_, head.intercept_]) / 2 if two else head.intercept_
        # scikit-learn penalises the two-class head as one vector: it is refitted at the strength that means the same
        if two:
            same = LogisticRegression(C=2 / (l2 * len(x)), tol=1e-6, max_iter=20_000).fit(wide, y.numpy())
            weight = np.vstack([-same.coef_, same.coef_]) / 2
            bias = np.concatenate([-same.intercept_, same.intercept_]) / 2
        theirs = logistic_objective(wide, y.numpy(), weight, bias, l2)
        assert objective <= theirs * (1 + 1e-4), f"l2 {l2}"


@pytest.mark.parametrize("case", ["wine, separable", "overlapping", "separable", "more features than samples"])
def test_the_certificate_bounds_the_true_gap(case: str) -> None:
    x, y = CASES[case]()
    c, l2 = int(y.max()) + 1, torch.tensor([1e-4, 1e-2, 1.0], dtype=torch.float64)
    for solver in (Logistic(), Logistic(max_iterations=3)):
        solution = solver.solve(x, y, c, l2)
        for i, value in enumerate(l2.tolist()):
            best = logistic_optimum(x.numpy(), y.numpy(), c, value)
            true_gap = (solution.objective[i].item() - best) / solution.objective[i].item()
            assert -1e-7 < true_gap <= solution.gap[i].item() + 1e-7


def test_a_fit_that_is_cut_short_is_not_called_converged() -> None:
    x, y = CASES["digits"]()
    solution = Logistic(max_iterations=2).solve(x, y, 10, L2)
    assert solution.status[0] is Status.STALLED
    assert solution.gap[0] > 1e-2


@pytest.mark.parametrize("field", [{"tolerance": 0.0}, {"max_iterations": 0}, {"memory": 0}])
def test_a_fit_that_cannot_be_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(field))}` of the solver logistic is 0"):
        Logistic(**field)


def test_few_pairs_are_slower_and_no_less_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "SAMPLE_BYTES", 0)
    x, y = CASES["overlapping"]()
    found = [Logistic(memory=memory).solve(x, y, 5, torch.tensor([1e-5], dtype=torch.float64)) for memory in (1, 100)]
    assert all(solution.status == (Status.CONVERGED,) for solution in found)
    assert found[0].iterations > found[1].iterations
    torch.testing.assert_close(found[0].objective, found[1].objective, rtol=1e-5, atol=0)


@pytest.mark.parametrize("l2", [1e-310, 5e-324])
def test_a_penalty_beneath_every_normal_number_is_none(l2: float) -> None:
    x, y = CASES["overlapping"]()
    found, unpenalised = (Logistic().solve(x, y, 5, torch.tensor([v], dtype=torch.float64)) for v in (l2, 0.0))
    torch.testing.assert_close(found.objective, unpenalised.objective, rtol=1e-5, atol=0)


def test_penalties_as_far_apart_as_numbers_are() -> None:
    x, y = CASES["overlapping"]()
    found = Logistic().solve(x, y, 5, torch.tensor([1e300, 1e-5], dtype=torch.float64))
    assert found.status == (Status.CONVERGED, Status.CONVERGED)


def test_no_penalty_on_separable_data_has_no_optimum() -> None:
    x, y = CASES["separable"]()
    solution = Logistic(max_iterations=50).solve(x, y, 4, torch.tensor([0.0, 1e-2], dtype=torch.float64))
    assert solution.status == (Status.STALLED, Status.CONVERGED)
    assert torch.isfinite(solution.weight).all()


def test_no_penalty_on_overlapping_data_converges() -> None:
    x, y = CASES["overlapping"]()
    solution = Logistic().solve(x, y, 5, torch.zeros(1, dtype=torch.float64))
    assert solution.status == (Status.CONVERGED,)
    best = logistic_optimum(x.numpy(), y.numpy(), 5, 1e-9)
    assert solution.objective.item() == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("shape", [(50, 4), (4, 50)])
def test_features_that_are_not_finite_diverge(bad: float, shape: tuple[int, int]) -> None:
    x, y = torch.randn(shape), torch.arange(shape[0]) % 2
    x[0, 0] = bad
    assert Logistic().solve(x, y, 2, L2).status == (Status.DIVERGED,) * 12


def test_constant_and_duplicated_columns_change_nothing() -> None:
    x, y = made(200, 10, 3, 1.0)
    plain = Logistic().solve(x, y, 3, L2)
    constant = Logistic().solve(torch.cat([x, torch.zeros(200, 2)], 1), y, 3, L2)
    torch.testing.assert_close(plain.objective, constant.objective, rtol=2e-5, atol=0)
    # a column twice, each at half the penalty's cost: the same as the column at twice the weight
    twice = Logistic().solve(torch.cat([x, x], 1) / 2**0.5, y, 3, L2)
    torch.testing.assert_close(plain.objective, twice.objective, rtol=2e-5, atol=0)


def test_constant_features_leave_the_shares_of_the_classes() -> None:
    y = torch.tensor([0, 0, 0, 1])
    solution = Logistic().solve(torch.zeros(4, 3), y, 2, torch.tensor([1e-3], dtype=torch.float64))
    assert solution.status == (Status.CONVERGED,)
    torch.testing.assert_close(solution.bias[0].softmax(0), torch.tensor([0.75, 0.25]))
    assert (solution.weight == 0).all()


def test_a_class_without_a_sample_is_never_chosen() -> None:
    x, y = made(100, 5, 3, 1.0)
    l2 = torch.tensor([1e-2], dtype=torch.float64)
    solution, without = Logistic().solve(x, y + (y > 0), 4, l2), Logistic().solve(x, y, 3, l2)
    scores = x @ solution.weight[0].T + solution.bias[0]
    assert (scores.argmax(1) != 1).all()
    assert objectives(x, y + (y > 0), solution, l2) == pytest.approx(without.objective.tolist(), rel=1e-6)


@given(seed=st.integers(0, 1000), c=st.integers(2, 5), d=st.integers(1, 30), n=st.integers(8, 60))
@settings(max_examples=25)
def test_the_optimum_does_not_depend_on_order_names_or_axes(seed: int, c: int, d: int, n: int) -> None:
    x, y = made(n, d, c, 1.0, seed)
    g = torch.Generator().manual_seed(seed)
    l2 = torch.tensor([1e-3, 1e-1], dtype=torch.float64)
    first = Logistic().solve(x, y, c, l2)
    order, names = torch.randperm(n, generator=g), torch.randperm(c, generator=g)
    turn = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0]
    for other in (
        Logistic().solve(x[order], y[order], c, l2),
        Logistic().solve(x, names[y], c, l2),
        Logistic().solve((x.double() @ turn).float(), y, c, l2),
        Logistic().solve(torch.cat([x, x]), torch.cat([y, y]), c, l2),
        Logistic().solve(x.double(), y, c, l2),
    ):
        torch.testing.assert_close(first.objective, other.objective, rtol=3e-5, atol=1e-9)


def test_the_same_call_gives_the_same_bits() -> None:
    x, y = CASES["digits"]()
    first, again = (Logistic().solve(x, y, 10, L2, lambda: Spectrum.of(x)) for _ in range(2))
    assert torch.equal(first.weight, again.weight)


def test_the_features_are_not_written_to() -> None:
    x, y = made(100, 5, 3, 1.0)
    before = x.clone()
    Logistic().solve(x, y, 3, L2)
    assert torch.equal(before, x)


@pytest.mark.slow
def test_many_classes() -> None:
    x, y = made(3000, 64, 300, 1.0)
    l2 = torch.tensor([1e-4, 1e-1], dtype=torch.float64)
    solution = Logistic().solve(x, y, 300, l2)
    assert set(solution.status) == {Status.CONVERGED}
    assert objectives(x, y, solution, l2) == pytest.approx(solution.objective.tolist(), rel=1e-5)
