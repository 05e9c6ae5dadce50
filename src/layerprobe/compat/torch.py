"""Private names of torch: versions, storages, `torch.compile`, transforms, sparse parts, pinned memory, defaults.

Known for torch 2.6 to 2.15.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

COMPILED = "_orig_mod"
"""The name, inside the module that `torch.compile` makes, of the module that it was made of."""

transform_level: Callable[[], int | None] = torch._C._functorch.maybe_current_level
"""The level of the transform of `torch.func` (vmap, grad, jvp) that is at work, whose tensors mean nothing outside of
it; None where none is."""


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` made a module of; any other module is returned as it is."""
    return module.get_submodule(COMPILED) if is_compiled(module) else module


def is_compiled(module: nn.Module) -> bool:
    """Tell whether a module is what `torch.compile` made of another one."""
    return COMPILED in module._modules


def is_sharded_later(module: nn.Module) -> bool:
    """Tell whether `torch.distributed.fsdp.fully_shard` will set a module up in its first call, not made yet."""
    state = getattr(module, "_get_fsdp_state", None)
    return state is not None and getattr(state(), "_is_root", False) is None


def version(tensor: Tensor) -> int:
    """Count how often a tensor has been written to in place; 0 for one of inference mode, which has no counter."""
    return 0 if tensor.is_inference() else tensor._version


def viewed(tensor: Tensor) -> Tensor:
    """Return the tensor that autograd knows a view to be one of; any other tensor is returned as it is."""
    return tensor if tensor._base is None else tensor._base


def storage_address(storage: torch.UntypedStorage) -> int:
    """Return the address of a storage itself, which is one also where it has no memory, as on the meta device."""
    return storage._cdata


def sparse_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return indices and values of a sparse tensor, coalesced or not; nothing for a dense one."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return ()


def default_device() -> torch.device | None:
    """Return the device that `torch.set_default_device` has set, whatever `with torch.device` says, or None."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def print_options() -> dict[str, Any]:
    """Return what `torch.set_printoptions` has set."""
    return dict(vars(torch._tensor_str.PRINT_OPTS))


def set_print_options(options: Mapping[str, Any]) -> None:
    """Set what `print_options` has given."""
    vars(torch._tensor_str.PRINT_OPTS).update(options)


def empty_host_cache() -> None:
    """Return pinned memory that is no longer used to the system; nothing where torch offers no way to."""
    before_2_12 = getattr(torch._C, "_host_emptyCache", lambda: None)
    getattr(torch.accelerator, "empty_host_cache", before_2_12)()
