from __future__ import annotations

import pytest

from layerprobe.probing.solvers.gram import SAMPLE, Spectrum
from layerprobe.probing.solvers.logistic import Logistic, iterations
from layerprobe.probing.solvers.operation_counts import Operations
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solver import AbstractSolver

SOLVERS = (Logistic(), Ridge(), Ridge(leave_one_out=True), Ridge(largest=100))
ONE_EACH = Operations(1e-3, 1e-11, 4e-11, 1e-8, 3e-8, 1e-11, 3e-11, 5e-11, 1e-10, 1e-9, 1e-9, 1e-9)


def test_counts_add_and_multiply() -> None:
    some, more = Operations(steps=2, thin=10), Operations(thin=5, eigen=7)
    assert some + more == Operations(steps=2, thin=15, eigen=7)
    assert some * 3 == Operations(steps=6, thin=30)
    assert (some + more).dot(Operations(steps=1, thin=0.5, eigen=2)) == 2 + 7.5 + 14
    assert (some + more).dot(ONE_EACH) == pytest.approx(some.dot(ONE_EACH) + more.dot(ONE_EACH))


def test_ridge_is_one_gram_matrix_and_one_decomposition() -> None:
    n, d, c, p = 1000, 30, 4, 6
    found = Ridge().operations(n, d, c, p)
    assert found.square_double == n * d * d
    assert found.eigen_double == d**3
    # B = X'Y is half a product there and back; every value's heads are three products with V or the covariance.
    assert found.thin_double == n * d * c / 2 + 3 * p * c * d * d / 2
    wide = Ridge().operations(d, n, c, p)
    assert (wide.square_double, wide.eigen_double) == (d**3, d**3)
    assert Ridge(leave_one_out=True).operations(n, d, c, p).square_double == 2 * n * d * d
    beyond = Ridge(largest=20).operations(n, d, c, p)
    assert beyond.square_double == beyond.eigen_double == 0
    assert beyond.thin_double == beyond.reads * c * p


def test_the_spectrum_has_three_forms() -> None:
    assert Spectrum.operations(1000, 30) == Operations(square=1000 * 900, eigen=27000, reads=30000)
    wide = Spectrum.operations(30, 1000)
    assert (wide.square_double, wide.eigen_double, wide.eigen) == (900 * 1000, 27000, 0)
    both = Spectrum.operations(50_000, 25_088)
    assert both.eigen == SAMPLE**3
    assert both.square_double == 0


def test_logistic_regression_evaluates_each_value_some_times_and_certifies_it_once() -> None:
    n, d, c, p = 1000, 30, 4, 6
    solver = Logistic(memory=1)
    found, k = solver.operations(n, d, c, p), iterations(n, d)
    assert found.fits == 1
    assert found.steps == pytest.approx(p * (k + 1))
    assert found.scores == pytest.approx(n * c * p * (k + 1.5))
    pairs = 4.5 * c * d * found.steps
    assert found.thin == pytest.approx(found.scores * d + p * (k + 1.5) * c * d * d + pairs)
    assert (found.thin_double, found.scores_double) == (n * d * c * p, n * c * p)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("grown", range(4))
def test_more_of_anything_takes_longer(solver: AbstractSolver, grown: int) -> None:
    for size in ([2000, 50, 3, 4], [300, 60, 10, 12], [50, 400, 2, 1]):
        larger = [value * (2 if i == grown else 1) for i, value in enumerate(size)]
        assert solver.operations(*larger).dot(ONE_EACH) > solver.operations(*size).dot(ONE_EACH)
