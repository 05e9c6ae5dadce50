"""Fits on a GPU against the same fits on the CPU, and the graphs that they are recorded in."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

import layerprobe
from layerprobe.probing.features.row_blocks import AbstractRows
from layerprobe.probing.solvers.cuda_graphs import Graphed
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.spectrum import Spectrum

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

L2 = torch.logspace(-5, 1, 7, dtype=torch.float64)


def samples(n: int, d: int, c: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % c
    means = 0.3 * torch.randn(c, d, generator=generator)
    x = means[y] + torch.randn(n, d, generator=generator)
    return (x - x.mean(0)) / x.std(0), y


class Read(AbstractRows):
    """Rows that lie elsewhere and are brought to the GPU as they are read."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows, self.shape, self.dtype, self.device = rows, tuple(rows.shape), rows.dtype, torch.device("cuda:0")

    def __getitem__(self, rows: slice) -> torch.Tensor:
        return self.rows[rows].to(self.device)


@pytest.mark.parametrize(("n", "d", "c"), [(900, 30, 2), (900, 30, 10), (3000, 40, 70), (120, 400, 5), (5000, 3, 3)])
@pytest.mark.parametrize("tolerance", [1e-5, 1e-9])
def test_the_optimum_is_that_of_the_cpu(n: int, d: int, c: int, tolerance: float) -> None:
    """At 1e-9 the fit is refined in float64."""
    x, y = samples(n, d, c)
    solver = Logistic(tolerance=tolerance)
    expected, found = solver.solve(x, y, c, L2), solver.solve(x.cuda(), y.cuda(), c, L2)
    assert found.weight.is_cuda
    assert all(status.name == "CONVERGED" for status in found.status)
    assert float(found.gap.max()) <= tolerance
    torch.testing.assert_close(found.objective.cpu(), expected.objective, rtol=2 * tolerance, atol=0)


def test_rows_that_are_read_come_to_the_same() -> None:
    x, y = samples(2000, 20, 4)
    solver = Logistic()
    expected, found = solver.solve(x.cuda(), y.cuda(), 4, L2), solver.solve(Read(x), y.cuda(), 4, L2)
    torch.testing.assert_close(found.objective, expected.objective, rtol=2e-5, atol=0)


@pytest.mark.parametrize("narrow", [False, True])
def test_the_same_bits_every_time(narrow: bool) -> None:
    x, y = samples(4000, 50, 10)
    if narrow:
        x = x @ torch.randn(50, 400, generator=torch.Generator().manual_seed(1))
    x, y = x.cuda(), y.cuda()
    assert Spectrum.of(x).narrow == narrow
    first, second = (Logistic().solve(x, y, 10, L2) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.iterations, second.iterations)


def test_products_that_a_user_allows_to_be_rough_change_nothing() -> None:
    x, y = samples(4000, 200, 10)
    expected = Logistic().solve(x.cuda(), y.cuda(), 10, L2)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found = Logistic().solve(x.cuda(), y.cuda(), 10, L2)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found.weight, expected.weight)


def test_a_graph_computes_what_the_function_does() -> None:
    def function(a: torch.Tensor, b: torch.Tensor, *, squared: bool) -> tuple[torch.Tensor, torch.Tensor]:
        found = a @ b
        return (found.square() if squared else found), a.sum()

    graphed = Graphed(function)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for k in (2, 5):
            for squared in (False, True):
                a, b = torch.randn(k, 4, generator=generator), torch.randn(4, 3, generator=generator)
                product, total = graphed(a.cuda(), b, squared=squared)  # b is brought over
                expected = function(a, b, squared=squared)
                torch.testing.assert_close(product.cpu(), expected[0])
                torch.testing.assert_close(total.cpu(), expected[1])


@pytest.mark.parametrize("times", [1, 2])
def test_a_recording_without_room_is_tried_once_more(times: int) -> None:
    """Then the error is the function's own, and leaves the GPU usable."""
    calls = []

    def function(a: torch.Tensor) -> torch.Tensor:
        calls.append(a)
        if 1 < len(calls) <= 1 + times:
            raise torch.OutOfMemoryError("no room")
        return a + 1

    with nullcontext() if times == 1 else pytest.raises(torch.OutOfMemoryError, match="no room"):
        assert Graphed(function)(torch.ones(3, device="cuda")).tolist() == [2, 2, 2]
    assert Graphed(lambda a: a + 1)(torch.ones(3, device="cuda")).tolist() == [2, 2, 2]


def test_probing_a_network_on_a_gpu() -> None:
    x, y = samples(3000, 20, 5)
    data = {"train": (x[:2000], y[:2000]), "val": (x[2000:2500], y[2000:2500]), "test": (x[2500:], y[2500:])}
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 5))
    expected = layerprobe.probe(network, data, progress=False)
    found = layerprobe.probe(network.cuda(), data, progress=False)
    assert (found["status"] == "converged").all()
    assert found["layer"].tolist() == expected["layer"].tolist()
    np.testing.assert_allclose(found["test_error"], expected["test_error"], atol=0.01)
