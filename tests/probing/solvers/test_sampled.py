"""Wide layers on a CPU, whose axes are those of a sample of the rows."""

from __future__ import annotations

import pytest
import torch

from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.solution import Status
from layerprobe.probing.solvers.spectrum import LARGEST, SAMPLE, WIDEST, Spectrum, sampled


@pytest.mark.parametrize(
    ("n", "d", "on_cpu", "on_a_gpu"),
    [
        (2 * SAMPLE, WIDEST, False, False),
        (2 * SAMPLE, WIDEST + 1, True, False),
        (2 * SAMPLE - 1, WIDEST + 1, False, False),  # too few rows for two samples
        (WIDEST + 1, 2 * WIDEST, False, False),  # solved in the span of the samples
        (LARGEST + 1, LARGEST + 1, True, True),
    ],
)
def test_who_is_sampled(n: int, d: int, on_cpu: bool, on_a_gpu: bool) -> None:
    assert sampled(n, d) == sampled(n, d, torch.device("cpu")) == on_cpu
    assert sampled(n, d, torch.device("cuda", 0)) == on_a_gpu


def test_the_optimum_does_not_depend_on_it() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (1200,), generator=generator)
    x = torch.randn(3, 320, generator=generator)[y] + 3 * torch.randn(1200, 320, generator=generator)
    x = Standardiser.fit(x).apply_(x * torch.arange(1, 321) ** -1.5)
    l2 = torch.logspace(-5, 1, 5, dtype=torch.float64)
    expected = Logistic().solve(x, y, 3, l2, lambda: Spectrum.of(x))
    spectrum = Spectrum.of_sample(x, 300)
    assert spectrum.vectors is not None
    assert spectrum.vectors.shape[1] < 320
    found = Logistic().solve(x, y, 3, l2, lambda: spectrum)
    assert set(found.status) == {Status.CONVERGED}
    torch.testing.assert_close(found.objective, expected.objective, rtol=2e-5, atol=0)
