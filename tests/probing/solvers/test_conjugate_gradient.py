from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.reference import made, ridge, ridge_objective
from layerprobe.probing.features.row_blocks import AbstractRows
from layerprobe.probing.solvers.conjugate_gradient import CovarianceProduct, descend
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Status
from layerprobe.probing.solvers.spectrum import Spectrum

L2 = torch.tensor([1e-6, 1e-3, 10.0, 1e-1], dtype=torch.float64)
SHAPES = [(300, 60, 4), (60, 200, 4), (80, 80, 2)]
ITERATIVE = Ridge(largest=16)


class Rows(AbstractRows):
    """Rows that can be read and nothing else; counts how often."""

    def __init__(self, whole: Tensor) -> None:
        self.whole, self.shape = whole, (whole.shape[0], whole.shape[1])
        self.dtype, self.device, self.most = whole.dtype, whole.device, 0

    def __getitem__(self, rows: slice) -> Tensor:
        found = self.whole[rows].clone()
        self.most = max(self.most, len(found))
        return found


@pytest.mark.parametrize(("n", "d", "c"), SHAPES)
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_is_the_least_squares_solution(n: int, d: int, c: int, shift: float) -> None:
    features, targets = made(n, d, c, 0.5)
    x = features.astype(np.float64) + shift
    solution = ITERATIVE.solve(torch.as_tensor(x), torch.as_tensor(targets), c, L2)
    assert set(solution.status) == {Status.CONVERGED}
    for i, l2 in enumerate(L2.tolist()):
        _, _, optimum = ridge(x, targets, c, l2)
        reached = ridge_objective(solution.weight[i].numpy(), solution.bias[i].numpy(), x, targets, l2)
        assert float(solution.objective[i]) == pytest.approx(reached, rel=1e-8, abs=1e-13)
        assert optimum - 1e-13 <= reached <= optimum * (1 + 1e-5) + 1e-13
        # The gap is a bound, not an estimate.
        assert reached - optimum <= float(solution.gap[i]) * reached + 2e-15


@pytest.mark.parametrize(("n", "d", "c"), SHAPES)
def test_float32_features_and_a_given_spectrum(n: int, d: int, c: int) -> None:
    features, targets = made(n, d, c, 0.5)
    x, y = torch.as_tensor(features), torch.as_tensor(targets)
    for spectrum in (None, partial(Spectrum.of, x), partial(Spectrum.of_sample, x)):
        solution = ITERATIVE.solve(x, y, c, L2, spectrum)
        assert set(solution.status) == {Status.CONVERGED}
        assert solution.weight.dtype == torch.float32
        exact = Ridge().solve(x, y, c, L2)
        torch.testing.assert_close(solution.objective, exact.objective, rtol=2e-5, atol=1e-12)


def test_without_a_penalty_the_gap_is_the_gradient() -> None:
    features, targets = made(300, 20, 3, 0.5)
    none = torch.zeros(1, dtype=torch.float64)
    x = torch.as_tensor(features).double()
    solution = ITERATIVE.solve(x, torch.as_tensor(targets), 3, none)
    assert solution.status == (Status.CONVERGED,)
    weight, _, objective = ridge(features, targets, 3, 0.0)
    assert float(solution.objective[0]) == pytest.approx(objective, rel=1e-6)
    np.testing.assert_allclose(solution.weight[0], weight, atol=1e-3 * np.abs(weight).max())


def test_too_few_passes_stall_and_say_how_far_they_got() -> None:
    features, targets = made(300, 60, 4, 0.5)
    x = torch.as_tensor(features).double()
    solution = Ridge(largest=16, max_iterations=4).solve(x, torch.as_tensor(targets), 4, L2[:1])
    assert solution.status == (Status.STALLED,)
    assert int(solution.iterations[0]) <= 6
    optimum = ridge(features, targets, 4, float(L2[0]))[2]
    objective = float(solution.objective[0])
    assert objective > optimum * (1 + 1e-5)
    assert (objective - optimum) / objective <= float(solution.gap[0])


def test_features_out_of_memory_are_read_in_blocks_and_groups_of_values_change_nothing() -> None:
    features, targets = made(300, 60, 4, 0.5)
    x, y = torch.as_tensor(features), torch.as_tensor(targets)
    whole = ITERATIVE.solve(x, y, 4, L2, lambda: Spectrum.of_sample(x))
    rows = Rows(x)
    product = CovarianceProduct.of(rows, lambda place: F.one_hot(y[place], 4), 4, elements=60 * 32)
    _, objective, gap, _ = descend(product, Spectrum.of_sample(x), L2, ITERATIVE.tolerance, 500, held=8 * 4 * 60)
    assert rows.most == 32
    assert (gap <= ITERATIVE.tolerance).all()
    torch.testing.assert_close(objective, whole.objective, rtol=2e-5, atol=0)


def test_constant_and_repeated_features_and_a_class_without_samples() -> None:
    features, targets = made(120, 20, 3, 0.5)
    x = np.hstack([features, features, np.zeros((120, 3), dtype=np.float32)])
    solution = ITERATIVE.solve(torch.as_tensor(x), torch.as_tensor(targets), 4, L2)
    assert set(solution.status) == {Status.CONVERGED}
    for i, l2 in enumerate(L2.tolist()):
        assert float(solution.objective[i]) == pytest.approx(ridge(x, targets, 4, l2)[2], rel=2e-5)
    assert not solution.weight[:, :, 40:].any()


def test_features_that_are_not_finite_diverge() -> None:
    x = torch.full((40, 30), torch.nan)
    assert set(ITERATIVE.solve(x, torch.arange(40) % 2, 2, L2).status) == {Status.DIVERGED}


def test_constant_features_are_solved_by_the_bias() -> None:
    solution = ITERATIVE.solve(torch.zeros(40, 30), torch.arange(40) % 2, 2, L2)
    assert set(solution.status) == {Status.CONVERGED}
    assert not solution.weight.any()
    torch.testing.assert_close(solution.bias, torch.full((4, 2), 0.5))
