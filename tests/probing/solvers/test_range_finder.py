"""Layers whose samples lie in few dimensions."""

from __future__ import annotations

import pytest
import torch

from layerprobe.probing.features.scaler import StandardisedRows, Standardiser
from layerprobe.probing.solvers.duality_gap import certify
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.range_finder import low_rank
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Status
from layerprobe.probing.solvers.spectrum import Spectrum

ROOM = 1 << 30
L2 = torch.tensor([1e-4, 1e-2, 1.0], dtype=torch.float64)


def narrow(n: int, d: int, r: int, c: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardised features that are an affine map of r numbers of very different size, and classes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(c, (n,), generator=generator)
    z = torch.randn(n, r, generator=generator, dtype=torch.float64) + 0.5 * torch.eye(c, r).double()[y]
    z *= torch.logspace(0, -2, r, dtype=torch.float64)
    x = (z @ torch.randn(r, d, generator=generator, dtype=torch.float64) + 1).float()
    return Standardiser.fit(x).apply_(x), y


def with_a_weak_direction() -> tuple[torch.Tensor, torch.Tensor]:
    """Narrow features, and beside them a direction of 1e-6 that tells two classes apart."""
    x, _ = narrow(4000, 300, 20)
    generator = torch.Generator().manual_seed(5)
    y = torch.randint(2, (4000,), generator=generator)
    direction = torch.randn(300, generator=generator, dtype=torch.float64)
    return x.double() + 1e-6 * torch.outer(2 * y - 1.0, direction / direction.norm()), y


@pytest.mark.parametrize("kept", [lambda x: x, lambda x: StandardisedRows(x, Standardiser.none(x))])
def test_coordinates_are_those_of_an_orthonormal_basis_of_all_samples(kept):
    x, _ = narrow(900, 300, 20)
    span = low_rank(kept(x), ROOM)
    assert span is not None
    assert span.axes.shape[1] in (20, 21)  # the mean of a finite sample may add one
    torch.testing.assert_close(span.axes.T @ span.axes, torch.eye(span.axes.shape[1]).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(span.coordinates.double() @ span.axes.T, x.double(), rtol=0, atol=1e-5)
    moments = span.coordinates.double().T @ span.coordinates.double() / 900
    torch.testing.assert_close(moments, moments.diagonal().diag(), rtol=0, atol=1e-6 * float(moments.max()))


@pytest.mark.parametrize("tolerance", [1e-5, 1e-8])
@pytest.mark.parametrize("c", [2, 3])
def test_the_optimum_is_the_one_in_all_axes(tolerance, c):
    x, y = narrow(900, 300, 20, c)
    solver = Logistic(tolerance=tolerance)
    expected = solver.solve(x, y, c, L2, lambda: Spectrum.in_all_axes(x))
    spectrum = Spectrum.of(x)
    assert spectrum.narrow
    found = solver.solve(x, y, c, L2, lambda: spectrum)
    assert set(found.status) == {Status.CONVERGED}
    torch.testing.assert_close(found.objective, expected.objective, rtol=2 * tolerance, atol=0)
    judged = certify(x, y, found.weight.double(), found.bias.double(), L2)
    torch.testing.assert_close(found.objective, judged.objective)


def test_a_direction_of_a_single_sample_is_among_them():
    x, _ = narrow(4000, 300, 20)
    before = low_rank(x, ROOM)
    x[1234] += 0.1 * torch.randn(300, generator=torch.Generator().manual_seed(5))
    span = low_rank(x, ROOM)
    assert span is not None
    assert before is not None
    assert span.axes.shape[1] == before.axes.shape[1] + 1
    torch.testing.assert_close(span.coordinates.double() @ span.axes.T, x.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_directions_of_few_samples_are_among_them(seed):
    x, _ = narrow(4000, 300, 20)
    generator = torch.Generator().manual_seed(seed)
    rare = torch.randperm(4000, generator=generator)[:15]
    x[rare] += 0.1 * torch.randn(15, 300, generator=generator)
    span = low_rank(x, ROOM)
    assert span is not None
    torch.testing.assert_close(span.coordinates.double() @ span.axes.T, x.double(), rtol=0, atol=1e-5)


def test_without_a_penalty_all_axes_are_used():
    """A direction beside the span separates the classes: no bound would tell."""
    x, _ = narrow(4000, 300, 20, 2)
    y = torch.randint(2, (4000,), generator=torch.Generator().manual_seed(3))
    x[:, 1] = x[:, 0] + 3e-6 * (2 * y - 1)
    x = Standardiser.fit(x).apply_(x)
    spectrum = Spectrum.of(x)
    assert spectrum.narrow
    found = Logistic().solve(x, y, 2, torch.zeros(1).double(), lambda: spectrum)
    assert float(found.objective) < 0.3
    assert found.status == (Status.STALLED,)


def test_values_that_are_certified_in_few_dimensions_are_kept():
    """Only what fails is fitted again, and only where that is better."""
    x, y = with_a_weak_direction()
    weak, strong = 1e-12, 1e-2
    both = torch.tensor([weak, strong], dtype=torch.float64)
    alone = Logistic().solve(x, y, 2, both[1:], lambda: Spectrum.of(x))
    seen = []

    def stop(weight, bias):
        seen.append(float(weight.norm()))
        return False

    found = Logistic().solve(x, y, 2, both, lambda: Spectrum.of(x), stop)
    torch.testing.assert_close(found.weight[1], alone.weight[0], rtol=1e-9, atol=1e-12)
    assert found.iterations[1] == alone.iterations[0]
    assert float(found.objective[0]) < 0.6, "the control: the weak value does need the direction beside"
    assert len(seen) == 2, "validation was asked again about a second fit"


def test_ridge_beyond_its_decomposition_takes_no_noise_for_a_direction():
    x, y = narrow(900, 300, 20)
    l2 = torch.tensor([0.0, 1e-9, 1e-3], dtype=torch.float64)
    expected, found = (Ridge(largest=size).solve(x, y, 3, l2, lambda: Spectrum.of(x)) for size in (6144, 100))
    assert set(found.status) == {Status.CONVERGED}
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-4, atol=0)


def test_what_lies_beside_and_still_counts_makes_the_fit_one_in_all_axes():
    """A direction too weak to be seen, on which the class hangs all the same where the penalty is weaker still."""
    x, y = with_a_weak_direction()
    spectrum, l2 = Spectrum.of(x), torch.tensor([1e-12], dtype=torch.float64)
    assert spectrum.narrow
    found = Logistic().solve(x, y, 2, l2, lambda: spectrum)
    expected = Logistic().solve(x, y, 2, l2, lambda: Spectrum.in_all_axes(x))
    torch.testing.assert_close(found.objective, expected.objective, rtol=2e-5, atol=0)
    assert float(found.objective) < 0.6, "the control: without that direction it is log 2, nearly"


def test_layers_without_such_a_subspace_have_none():
    generator = torch.Generator().manual_seed(0)
    assert low_rank(torch.randn(900, 300, generator=generator), ROOM) is None
    assert low_rank(narrow(900, 300, 95)[0], ROOM) is None  # as many as are tried, nearly
    assert low_rank(narrow(900, 200, 5)[0], ROOM) is None  # too few features to be worth it


def test_no_more_room_is_taken_than_there_is():
    x, _ = narrow(900, 300, 20)
    assert low_rank(x, 4 * 900 * 21 + 28 * 300 * 21) is not None
    assert low_rank(x, 4 * 900 * 20) is None


def test_features_that_are_not_finite_or_all_zero_are_left_to_others():
    x, y = narrow(900, 300, 20)
    assert low_rank(torch.zeros_like(x), ROOM) is None
    x[3, 7] = torch.nan
    assert set(Logistic().solve(x, y, 3, L2).status) == {Status.DIVERGED}
