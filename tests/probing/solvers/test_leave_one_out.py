from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.reference import made, ridge
from layerprobe.probing.features.row_blocks import AbstractRows
from layerprobe.probing.solvers import leave_one_out as left_out
from layerprobe.probing.solvers.ridge import Ridge

L2 = torch.tensor([1e-4, 1e-2, 1.0], dtype=torch.float64)
SHAPES = [(40, 6, 3), (25, 60, 3)]


def brute_force(x: np.ndarray, y: np.ndarray, l2: float) -> np.ndarray:
    """Predict every sample by a fit to the others, whose penalty on the sum of squares is the same."""
    n, out = len(x), np.zeros(y.shape)
    for i in range(n):
        rest = np.arange(n) != i
        design = np.hstack([x[rest], np.ones((n - 1, 1))])
        penalty = np.diag(np.append(np.full(x.shape[1], n * l2), 0.0))
        out[i] = np.append(x[i], 1) @ np.linalg.solve(design.T @ design + penalty, design.T @ y[rest])
    return out


@pytest.mark.parametrize(("n", "d", "c"), SHAPES)
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_equals_fitting_again_without_each_sample(n: int, d: int, c: int, shift: float) -> None:
    features, targets = made(n, d, c, 0.5)
    x, onehot = features.astype(np.float64) + shift, np.eye(c)[targets]
    found = Ridge(leave_one_out=True).solve(torch.as_tensor(x), torch.as_tensor(targets), c, L2).left_out
    assert found is not None
    for i, l2 in enumerate(L2.tolist()):
        out = brute_force(x, onehot, l2)
        assert float(found.loss[i]) == pytest.approx(0.5 * ((onehot - out) ** 2).sum(1).mean(), rel=1e-7)
        assert float(found.error[i]) == (out.argmax(1) != targets).mean()


@pytest.mark.parametrize(("n", "d", "c"), SHAPES)
def test_numbers_have_a_loss_and_no_error(n: int, d: int, c: int) -> None:
    features, _ = made(n, d, c, 0.5)
    x, y = features.astype(np.float64), np.random.default_rng(0).normal(size=(n, 2))
    found = Ridge(leave_one_out=True).regress(torch.as_tensor(x), torch.as_tensor(y), L2).left_out
    assert found is not None
    assert found.error.isnan().all()
    for i, l2 in enumerate(L2.tolist()):
        expected = 0.5 * ((y - brute_force(x, y, l2)) ** 2).sum(1).mean()
        assert float(found.loss[i]) == pytest.approx(expected, rel=1e-7)


def test_blocks_and_rows_that_are_not_in_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows(AbstractRows):
        def __init__(self, whole: torch.Tensor) -> None:
            self.whole, self.shape, self.dtype, self.device = (
                whole,
                (whole.shape[0], whole.shape[1]),
                whole.dtype,
                whole.device,
            )

        def __getitem__(self, rows: slice) -> torch.Tensor:
            return self.whole[rows].clone()

    features, targets = made(40, 6, 3, 0.5)
    x, y = torch.as_tensor(features), torch.as_tensor(targets)
    whole = Ridge(leave_one_out=True).solve(x, y, 3, L2).left_out
    monkeypatch.setattr(left_out, "_ELEMENTS", 7 * 6)
    parts = Ridge(leave_one_out=True).solve(Rows(x), y, 3, L2).left_out
    assert whole is not None and parts is not None
    torch.testing.assert_close(parts.loss, whole.loss)
    assert parts.error.tolist() == whole.error.tolist()


def test_a_sample_that_the_fit_passes_through_has_no_answer_without_it() -> None:
    features, targets = made(10, 30, 2, 0.5)
    none = torch.zeros(1, dtype=torch.float64)
    found = Ridge(leave_one_out=True).solve(torch.as_tensor(features).double(), torch.as_tensor(targets), 2, none)
    assert found.left_out is not None
    assert found.left_out.loss.isnan().all()
    assert found.left_out.error.isnan().all()


def test_it_is_left_out_unless_asked_for() -> None:
    features, targets = made(40, 6, 3, 0.5)
    assert Ridge().solve(torch.as_tensor(features), torch.as_tensor(targets), 3, L2).left_out is None


def test_it_tells_labels_from_noise() -> None:
    features, targets = made(300, 20, 3, 2.0)
    x = torch.as_tensor(features)
    shuffled = torch.as_tensor(np.random.default_rng(0).permutation(targets))
    true, noise = (Ridge(leave_one_out=True).solve(x, y, 3, L2).left_out for y in (torch.as_tensor(targets), shuffled))
    assert true is not None and noise is not None
    assert true.error.max() < 0.2
    assert noise.error.min() > 0.5
    # The error on train itself would be far lower: that is what leaving out is for.
    assert ridge(features, shuffled.numpy(), 3, 1e-4)[2] < noise.loss[0]
