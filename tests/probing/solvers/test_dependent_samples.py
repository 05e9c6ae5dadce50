"""Samples that stand there several times, or lie in few dimensions, where features are more than samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerprobe.probing.protocol import L2_GRID
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Status


def repeated(n: int, d: int, mean: float, scale: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each of n / 4 rows about four times, with labels of its own; the rows, and which one each sample is."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(n // 4, d, generator=g) * scale + mean
    which = torch.randint(len(rows), (n,), generator=g)
    return rows[which], torch.randint(2, (n,), generator=g), rows, which


@pytest.mark.parametrize(("n", "d"), [(120, 1500), (100, 300)])
@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (100.0, 30.0)])
def test_all_values_of_the_grid_are_certified(n: int, d: int, mean: float, scale: float) -> None:
    x, y, _, _ = repeated(n, d, mean, scale, 0)
    found = Logistic().solve(x, y, 2, torch.tensor(L2_GRID, dtype=torch.float64))
    assert found.status == (Status.CONVERGED,) * len(L2_GRID)


@pytest.mark.parametrize("c", [2, 3])
def test_without_a_penalty_they_are_not_told_apart(c: int) -> None:
    """The optimum answers each distinct row with the shares of its labels, which no rounding may separate."""
    x, y, rows, which = repeated(80, 1500, 0.0, 1.0, 1)
    y = (y + (c - 2) * torch.arange(len(y))) % c
    counts = torch.zeros(len(rows), c, dtype=torch.float64).index_put_((which, y), torch.ones(80).double(), True)
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    entropy = -float(torch.xlogy(counts, shares).sum()) / len(y)
    found = Logistic().solve(x, y, c, torch.zeros(1, dtype=torch.float64))
    assert float(found.objective) == pytest.approx(entropy, rel=1e-3)


def test_ridge_and_its_left_out_errors_are_those_of_a_dense_solution() -> None:
    x, y, _, _ = repeated(120, 900, 0.0, 1.0, 2)
    x = (x - x.mean(0)) / x.std(0)
    l2 = torch.tensor([1e-1, 1e-4, 1e-6], dtype=torch.float64)
    found = Ridge(leave_one_out=True).solve(x, y, 2, l2)
    wide, targets, n = x.double(), torch.nn.functional.one_hot(y).double(), len(y)
    wide, targets = wide - wide.mean(0), targets - targets.double().mean(0)
    values, vectors = torch.linalg.eigh(wide @ wide.T / n)
    assert found.left_out is not None
    for i, value in enumerate(l2.tolist()):
        hat = (vectors * (values.clamp_min(0) / (values.clamp_min(0) + value))) @ vectors.T
        residual = targets - hat @ targets
        weight = wide.T @ residual / (n * value)
        objective = 0.5 * residual.square().sum() / n + 0.5 * value * weight.square().sum()
        left_out = 0.5 * (residual / (1 - 1 / n - hat.diagonal())[:, None]).square().sum() / n
        assert float(found.objective[i]) == pytest.approx(float(objective), rel=1e-6)
        assert float(found.left_out.loss[i]) == pytest.approx(float(left_out), rel=1e-4)
