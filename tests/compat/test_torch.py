"""What the private names of torch are used for; a release that changes one of them fails here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from layerprobe.compat.torch import (
    COMPILED,
    default_device,
    empty_host_cache,
    is_compiled,
    print_options,
    set_print_options,
    sparse_parts,
    storage_address,
    transform_level,
    uncompiled,
    version,
    viewed,
)


def test_a_compiled_module_is_told_and_opened() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    compiled = torch.compile(network)
    assert isinstance(compiled, nn.Module)
    assert (is_compiled(compiled), is_compiled(network)) == (True, False)
    assert uncompiled(compiled) is uncompiled(network) is network
    assert dict(compiled.named_modules())[COMPILED] is network
    assert list(compiled.state_dict()) == [f"{COMPILED}.0.weight", f"{COMPILED}.0.bias"]


def test_a_transform_is_told_from_inside() -> None:
    seen: list[bool] = []

    def inside(x: Tensor) -> Tensor:
        seen.append(transform_level() is not None)
        return x.sum()

    torch.vmap(inside)(torch.zeros(2, 3))
    torch.func.grad(inside)(torch.zeros(3))
    inside(torch.zeros(3))
    assert seen == [True, True, False]


def test_a_version_counts_what_is_written_in_place() -> None:
    x = torch.zeros(4)
    before = version(x)
    x.view(2, 2)[0].add_(1)
    assert version(x) == version(x.view(2, 2)) == before + 1
    x.add(1)
    assert version(x) == before + 1
    with torch.inference_mode():
        assert version(torch.zeros(4).add_(1)) == 0


def test_a_view_is_one_of_its_tensor() -> None:
    x = torch.zeros(4)
    assert viewed(x) is viewed(x.view(2, 2)[0]) is x


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_views_have_the_address_of_their_storage(device: str) -> None:
    x, other = torch.zeros(4, device=device), torch.zeros(4, device=device)
    one = storage_address(x.untyped_storage())
    assert storage_address(x[1:].untyped_storage()) == storage_address(x.detach().untyped_storage()) == one
    assert storage_address(other.untyped_storage()) != one


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_the_parts_of_a_sparse_tensor_are_its_own_memory(layout: torch.layout) -> None:
    dense = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    sparse = dense.to_sparse(layout=layout)
    assert sorted(sparse_parts(sparse)[-1].tolist()) == [2.0, 3.0]
    sparse_parts(sparse)[-1].mul_(2)
    assert torch.equal(sparse.to_dense(), 2 * dense)
    assert sparse_parts(dense) == ()


def test_a_sparse_tensor_need_not_be_coalesced() -> None:
    twice: Tensor = torch.sparse_coo_tensor(torch.tensor([[0, 0]]), torch.ones(2), (3,), check_invariants=True)
    assert not twice.is_coalesced()
    assert [part.tolist() for part in sparse_parts(twice)] == [[[0, 0]], [1.0, 1.0]]


def test_pinned_memory_is_given_back() -> None:
    named = hasattr(torch.accelerator, "empty_host_cache") or hasattr(torch._C, "_host_emptyCache")
    assert named, "neither the public name nor that of before is there"
    if torch.cuda.is_available():
        empty_host_cache()


def test_the_default_device_is_what_was_set_and_none_by_default() -> None:
    assert default_device() is None
    with torch.device("meta"):
        assert default_device() is None
    torch.set_default_device("meta")
    try:
        assert default_device() == torch.device("meta")
    finally:
        torch.set_default_device(None)


def test_print_options_are_read_and_set() -> None:
    before, shown = print_options(), str(torch.tensor([1 / 3]))
    torch.set_printoptions(precision=2)
    assert print_options() != before
    assert str(torch.tensor([1 / 3])) != shown
    set_print_options(before)
    assert str(torch.tensor([1 / 3])) == shown
