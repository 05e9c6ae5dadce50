"""Features of mixed scales, which nothing has standardised."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.reference import softmax_regression
from layerprobe.probing.solvers import newton
from layerprobe.probing.solvers.centred_axes import Centred
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.solution import Status

L2 = 1e-6


def mixed(seed: int, offset: float, n: int = 300, d: int = 10, c: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Classes about means of their own; scales from 1e-3 to 1e3, and means that are `offset` deviations from zero."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.arange(n) % c)
    means = 0.7 * rng.normal(size=(c, d))
    features = rng.normal(size=(n, d)) + means[targets] + offset
    return (features * 10 ** rng.uniform(-3, 3, size=d)).astype(np.float32), targets


@pytest.mark.parametrize(("seed", "offset"), [(102, 0.0), (102, 4.0), (103, 4.0)])
def test_the_optimum_is_proved_whatever_the_scales(seed: int, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "SAMPLE_BYTES", 0)  # which is in double precision from the start
    x, y = mixed(seed, offset)
    solver = Logistic(max_iterations=60)
    found = solver.solve(torch.tensor(x), torch.tensor(y), 3, torch.tensor([L2], dtype=torch.float64))
    assert int(found.iterations[0]) > 61, "the positive control: single precision has run out of evaluations"
    assert found.status[0] is Status.CONVERGED
    *_, optimum = softmax_regression(x, y, 3, L2)
    objective = float(found.objective[0])
    assert objective == pytest.approx(optimum, rel=1e-8)
    assert objective - optimum <= float(found.gap[0]) * objective + 1e-12, "the bound holds"
    assert float(found.gap[0]) <= 1e-5


def test_a_fit_that_is_cut_short_stays_stalled() -> None:
    """The negative control."""
    x, y = mixed(102, 4.0)
    found = Logistic(max_iterations=3).solve(
        torch.tensor(x), torch.tensor(y), 3, torch.tensor([L2], dtype=torch.float64)
    )
    assert found.status[0] is Status.STALLED
    assert float(found.gap[0]) > 1e-5


def test_standardised_features_need_no_other_axes() -> None:
    x = torch.tensor(mixed(0, 4.0)[0])
    assert Centred.of(x) is not None
    standardised = (x - x.mean(0)) / x.std(0)
    assert Centred.of(standardised) is None
    assert Centred.of(torch.ones(5, 3)) is None


def test_axes_are_those_of_the_covariance_in_double_precision() -> None:
    x = torch.tensor(mixed(0, 4.0)[0])
    found = Centred.of(x)
    assert found is not None
    wide = x.double()
    torch.testing.assert_close(found.rows[2:5], wide[2:5] - wide.mean(0))
    covariance = (wide - wide.mean(0)).T @ (wide - wide.mean(0)) / len(wide)
    torch.testing.assert_close(found.axes @ found.values.diag() @ found.axes.T, covariance, rtol=1e-9, atol=1e-9)
