"""What is recorded as a graph must neither read a number back nor bring one over: found out without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layerprobe.probing.solvers.l2_path import Continuation, Samples
from layerprobe.probing.solvers.lbfgs import Pairs, tried


class Transfers(TorchDispatchMode):
    """Collects the operations between a GPU and the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = [leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        result = function(*args, **(kwargs or {}))
        made = [leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        # Filling by index brings the value over in some versions.
        if "cpu" in given + made or any(name in str(function) for name in ("_local_scalar_dense", "index_fill")):
            self.found.append(f"{function}: {given} -> {made}")
        return result


def transfers(n: int, d: int, c: int, dtype: torch.dtype, *, axes: bool, plain: bool) -> list[str]:
    """Those of one iteration, on a GPU that is not there."""
    with FakeTensorMode():
        where = {"device": "cuda"}
        x, y = torch.empty(n, d, **where), torch.empty(n, dtype=torch.int64, **where)
        turned, along = torch.empty(d, d, **where), torch.empty(d, 5, **where)
        samples = Samples(x, y, c, torch.float32, turned if axes else None)
        values = torch.empty(d if axes else 5, **where)
        path = Continuation(samples, 1e-5, 100, values, None if axes else along, 0.1, 8)
        m = c - 1
        pairs = Pairs(8, torch.empty(m, d + 1, dtype=dtype, **where))
        function = tried(samples.objective(dtype), path._metric(dtype), pairs)
        head, gradient = (torch.empty(m, d + 1, dtype=dtype, **where) for _ in range(2))
        numbers, a, turn = (torch.empty(size, dtype=torch.float64, **where) for size in ((3,), (m,), (m, m)))
        function(head, gradient, numbers, a, turn, plain=plain, curvature=True)
        with Transfers() as seen:
            function(head, gradient, numbers, a, turn, plain=plain, curvature=True)
            pairs.move(numbers[:1], 0.5)
    return seen.found


@pytest.mark.parametrize("c", [2, 3, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("axes", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_an_iteration_stays_on_the_gpu(c, dtype, axes, plain):
    assert transfers(300, 20, c, dtype, axes=axes, plain=plain) == []


@pytest.mark.parametrize(
    "work",
    [
        lambda a: a.cpu(),
        lambda a: torch.ones(3).to(a.device),
        lambda a: a.index_fill_(0, torch.empty(2, dtype=torch.int64, device=a.device), 0),
    ],
)
def test_a_transfer_would_be_found(work):
    with FakeTensorMode(), Transfers() as seen:
        work(torch.empty(3, device="cuda"))
    assert seen.found
