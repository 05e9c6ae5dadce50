from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from helpers.reference import made, ridge
from layerprobe.probing.features.reducers import Flatten
from layerprobe.probing.features.row_blocks import AbstractRows
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.leave_one_out import leave_one_out
from layerprobe.probing.solvers.moments import Moments
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Status
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.multi_label import MultiLabel
from layerprobe.probing.tasks.regression import Regression

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
def test_the_error_of_numbers_is_the_variance_that_is_not_explained(n: int, d: int, c: int) -> None:
    features, _ = made(n, d, c, 0.5)
    x, y = features.astype(np.float64), np.random.default_rng(0).normal(size=(n, 2)) * [1.0, 3.0]
    found = Ridge(leave_one_out=True).regress(torch.as_tensor(x), torch.as_tensor(y), L2).left_out
    assert found is not None
    for i, l2 in enumerate(L2.tolist()):
        squares = (y - brute_force(x, y, l2)) ** 2
        assert float(found.loss[i]) == pytest.approx(0.5 * squares.sum(1).mean(), rel=1e-7)
        assert float(found.error[i]) == pytest.approx((squares.mean(0) / y.var(0)).mean(), rel=1e-7)


def test_blocks_and_rows_that_are_not_in_memory_change_nothing() -> None:
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

    def one_hot(rows: slice) -> torch.Tensor:
        return F.one_hot(y[rows], 3)

    moments = Moments.of(Rows(x), one_hot, 3)
    parts = leave_one_out(Rows(x), one_hot, moments, moments.axes(L2), numbers=False, elements=7 * 6)
    assert whole is not None
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


def test_no_figure_is_known_where_no_matrix_is_decomposed() -> None:
    features, targets = made(40, 6, 3, 0.5)
    found = Ridge(leave_one_out=True, largest=5).solve(torch.as_tensor(features), torch.as_tensor(targets), 3, L2)
    assert set(found.status) == {Status.CONVERGED}
    assert found.left_out is not None
    assert found.left_out.error.isnan().all()


ALPHAS = [1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0]


def probed(task: Any, x: np.ndarray, y: Any, n_train: int, **options: Any) -> Any:
    """Probe the input itself without a validation split, leave-one-out errors choosing what RidgeCV calls alpha."""
    pairs = {
        split: (torch.as_tensor(x[part]), torch.as_tensor(y[part]))
        for split, part in (("train", slice(n_train)), ("test", slice(n_train, None)))
    }
    protocol = ProbeProtocol(
        layers="input",
        reducers=(Flatten(),),
        solvers=(Ridge(leave_one_out=True),),
        l2=[alpha / n_train for alpha in ALPHAS],
        task=task,
        **options,
    )
    (result,) = probe_checkpoint(torch.nn.Identity(), pairs, protocol)
    return result


@pytest.mark.parametrize(("noise", "n_train", "d"), [(0.1, 60, 10), (3.0, 60, 10), (3.0, 40, 80), (20.0, 60, 30)])
def test_without_validation_the_penalty_is_the_one_that_ridge_cv_chooses(noise: float, n_train: int, d: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_train + 50, d))
    y = x @ rng.normal(size=(d, 2)) + noise * rng.normal(size=(n_train + 50, 2))
    result = probed(Regression(), x, y, n_train)
    scaler, level = StandardScaler().fit(x[:n_train]), StandardScaler().fit(y[:n_train])
    reference = RidgeCV(alphas=ALPHAS).fit(scaler.transform(x[:n_train]), level.transform(y[:n_train]))
    record = result.record
    assert record.l2 == reference.alpha_ / n_train
    assert record.status == "converged"
    r2 = reference.score(scaler.transform(x[n_train:]), level.transform(y[n_train:]))
    assert record.test_error == pytest.approx(1 - r2, rel=1e-6)
    assert math.isnan(record.val_error) and record.n_val == 0
    (chosen,) = [row for row in result.path if row.selected]
    assert (chosen.l2, chosen.loo_error) == (record.l2, min(row.loo_error for row in result.path))
    assert chosen.loo_error == pytest.approx(-reference.best_score_, rel=1e-6)


@pytest.mark.parametrize("task", [Classification(), MultiLabel()], ids=lambda task: task.name)
def test_classes_and_labels_are_chosen_by_the_share_that_is_wrong(task: Any) -> None:
    x, y = made(180, 12, 3, 0.8)
    targets = y if task.name == "classification" else np.eye(3, dtype=np.int64)[y]
    result = probed(task, x.astype(np.float64), targets, 90)
    scaled, onehot = StandardScaler().fit(x[:90]).transform(x[:90].astype(np.float64)), np.eye(3)[y[:90]]
    for row in result.path:
        out = brute_force(scaled, onehot, row.l2)
        wrong = out.argmax(1) != y[:90] if task.name == "classification" else (out > 0.5) != (onehot == 1)
        assert row.loo_error == pytest.approx(wrong.mean())
        assert row.loo_loss == pytest.approx(((onehot - out) ** 2).sum(1).mean() * (0.5 if wrong.ndim == 1 else 1 / 3))
    best = min(result.path, key=lambda row: (row.loo_error, row.loo_loss, -row.l2))
    assert [row.l2 for row in result.path if row.selected] == [best.l2] == [result.record.l2]


def test_validation_chooses_where_there_is_one() -> None:
    x, y = made(200, 12, 3, 0.8)
    data = {
        split: (torch.as_tensor(x[part]), torch.as_tensor(y[part]))
        for split, part in (("train", slice(80)), ("val", slice(80, 140)), ("test", slice(140, None)))
    }
    options: dict[str, Any] = {"layers": "input", "reducers": (Flatten(),), "l2": [a / 80 for a in ALPHAS]}
    found, plain = (
        next(iter(probe_checkpoint(torch.nn.Identity(), data, ProbeProtocol(solvers=(solver,), **options)))).record
        for solver in (Ridge(leave_one_out=True), Ridge())
    )
    assert (found.l2, found.val_error, found.test_error) == (plain.l2, plain.val_error, plain.test_error)


def test_where_nothing_tells_the_heads_apart_the_layer_says_so() -> None:
    x, y = made(60, 10, 2, 0.5)
    data = {
        "train": (torch.as_tensor(x[:40]), torch.as_tensor(y[:40])),
        "test": (torch.as_tensor(x), torch.as_tensor(y)),
    }
    options: dict[str, Any] = {"layers": "input", "reducers": (Flatten(),), "l2": [1e-2, 1e-1]}
    protocol = ProbeProtocol(solvers=(Ridge(leave_one_out=True, largest=5),), **options)
    (result,) = probe_checkpoint(torch.nn.Identity(), data, protocol)
    assert result.record.status == "failed"
    assert "Give a validation split" in result.record.message
    with pytest.raises(ValueError, match=r"val: .* Or let leave-one-out errors on train choose.*leave_one_out=true"):
        list(probe_checkpoint(torch.nn.Identity(), data, ProbeProtocol(**options)))
    with pytest.raises(ValueError, match="val: "):
        list(probe_checkpoint(torch.nn.Identity(), data, replace(protocol, refit=True)))
