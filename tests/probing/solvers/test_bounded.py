"""No solver reads more than a few blocks of a matrix at a time, however wide or long the matrix is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerprobe.probing.features.row_blocks import BLOCK, AbstractRows
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solver import AbstractSolver

_MOST = 4 * BLOCK
"""The Gram matrix of samples takes pairs of blocks, so that fewer and larger ones are read."""


class Watched(AbstractRows):
    """Rows in memory that remember how much was asked for at once."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.most = rows, 0
        self.shape, self.dtype, self.device = tuple(rows.shape), rows.dtype, rows.device

    def __getitem__(self, rows: slice) -> Tensor:
        found = self.rows[rows].clone()
        self.most = max(self.most, found.numel())
        return found


@pytest.mark.parametrize("solver", [Logistic(tolerance=1e-3), Ridge()])
@pytest.mark.parametrize(("n", "d"), [(450, 160_000), (700_000, 100)])
def test_it_is_read_in_pieces(solver: AbstractSolver, n: int, d: int) -> None:
    g = torch.Generator().manual_seed(0)
    watched = Watched(torch.randn(n, d, generator=g))
    assert watched.rows.numel() > _MOST
    found = solver.solve(watched, torch.randint(2, (n,), generator=g), 2, torch.tensor([1.0], dtype=torch.float64))
    assert found.status == ("converged",)
    assert 0 < watched.most <= _MOST
