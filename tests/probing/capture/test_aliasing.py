from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from layerprobe.probing.capture.aliasing import Identities, function_name


class Names(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(function_name(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: x + x, "add"),
        (lambda x: 1 + x, "add"),
        (lambda x: operator.iadd(x, 1), "add"),
        (lambda x: x.add_(1), "add"),
        (lambda x: torch.add(x, x), "add"),
        (lambda x: torch.ops.aten.add.Tensor(x, x), "add"),
        (lambda x: 1 - x, "sub"),
        (lambda x: x / 2, "div"),
        (lambda x: 2 / x, "div"),
        (lambda x: 2**x, "pow"),
        (lambda x: x @ x.T, "matmul"),
        (lambda x: -x, "neg"),
        (lambda x: F.relu(x, inplace=True), "relu"),
        (lambda x: F.max_pool2d(x[None], 2), "max_pool2d"),
        (lambda x: x.T, "T"),
        (lambda x: operator.setitem(x, 0, 1), "setitem"),
        (lambda x: torch.concat([x, x]), "cat"),
    ],
)
def test_function_names(call: Callable[[Tensor], object], name: str) -> None:
    mode = Names()
    with mode, torch.no_grad():
        call(torch.ones(4, 4))
    assert name in mode.seen


@torch.no_grad()
def test_views_of_the_same_elements_share_a_key_and_others_do_not() -> None:
    keys = Identities()
    x = torch.randn(4, 6)
    same = [x, x.view(2, 12), x.T, x.flatten(), x[None], x.unflatten(1, (2, 3)).permute(2, 0, 1), x.detach()]
    assert len({keys.key(tensor) for tensor in same}) == 1
    other = [x, x[:, :3], x[:, ::2], x[:, 3:], x[:2], x[::2], x.clone(), x.expand(2, 4, 6), x.view(torch.int32)]
    assert len({keys.key(tensor) for tensor in other}) == len(other)
    before = keys.key(x)
    x.add_(1)
    assert keys.key(x) != before


@torch.no_grad()
def test_an_address_is_not_used_again() -> None:
    """Without a hold on the storages, memory that was freed would come back under the key of something else."""
    keys = Identities()
    assert len({keys.key(torch.ones(100) * index) for index in range(200)}) == 200


def test_tensors_without_a_storage_have_no_key() -> None:
    assert Identities().key(torch.eye(3).to_sparse()) is None
