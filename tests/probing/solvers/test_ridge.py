from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as TheirRidge
from torch import Tensor

from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Status

L2 = torch.tensor([1e-6, 1e-3, 1.0, 10.0], dtype=torch.float64)


def made(n: int, d: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(n + d)
    x = torch.randn(n, d, generator=g) @ torch.diag(torch.arange(1.0, d + 1) ** -1) + 3
    x = x @ torch.randn(d, d, generator=g)
    return Standardiser.fit(x).apply_(x.clone()), torch.arange(n) % 3


@pytest.mark.parametrize(("n", "d"), [(200, 20), (40, 150)])
def test_equals_scikit_learn(n: int, d: int) -> None:
    x, y = made(n, d)
    solution = Ridge().solve(x, y, 3, L2)
    assert set(solution.status) == {Status.CONVERGED}
    onehot = np.eye(3)[y.numpy()]
    for i, l2 in enumerate(L2.tolist()):
        # scikit-learn minimises the sum of squares + alpha·‖w‖²
        theirs = TheirRidge(alpha=l2 * n, solver="svd").fit(x.double().numpy(), onehot)
        fitted = x.double() @ solution.weight[i].double().T + solution.bias[i].double()
        np.testing.assert_allclose(fitted.numpy(), theirs.predict(x.double().numpy()), atol=2e-5)
        residual = theirs.predict(x.double().numpy()) - onehot
        objective = 0.5 * (residual**2).sum(1).mean() + 0.5 * l2 * (theirs.coef_**2).sum()
        assert solution.objective[i].item() == pytest.approx(objective, rel=1e-6)


def test_no_penalty_gives_the_solution_of_smallest_norm() -> None:
    x, y = made(40, 150)
    solution = Ridge().solve(x, y, 3, torch.zeros(1, dtype=torch.float64))
    design = x.double().numpy() - x.double().numpy().mean(0)
    onehot = np.eye(3)[y.numpy()] - np.eye(3)[y.numpy()].mean(0)
    expected = np.linalg.lstsq(design, onehot, rcond=1e-9)[0].T
    np.testing.assert_allclose(solution.weight[0].numpy(), expected, atol=1e-4)


def test_shifted_features_are_no_harder() -> None:
    x, y = made(200, 20)
    plain, shifted = Ridge().solve(x, y, 3, L2), Ridge().solve(x + 100, y, 3, L2)
    torch.testing.assert_close(plain.objective, shifted.objective, rtol=1e-4, atol=0)


def test_exclusive_or_has_no_linear_answer() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    solution = Ridge().solve(Standardiser.fit(x).apply_(x), torch.tensor([0, 1, 1, 0]), 2, L2)
    torch.testing.assert_close(solution.weight, torch.zeros_like(solution.weight))
    torch.testing.assert_close(solution.bias, torch.full_like(solution.bias, 0.5))


def test_features_that_are_not_finite_diverge() -> None:
    x, y = torch.full((10, 3), torch.nan), torch.arange(10) % 2
    assert set(Ridge().solve(x, y, 2, L2).status) == {Status.DIVERGED}
