"""Aliases: tensors of a forward pass that hold the same value, and the names of the functions that made them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, no_type_check

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from layerprobe.compat.torch import storage_address, version
from layerprobe.probing.capture.pytree import tensors

Key: TypeAlias = tuple[Any, ...]

_PRESERVING = frozenset({
    "alias", "bfloat16", "clone", "contiguous", "cpu", "cuda", "data", "detach", "double", "flatten", "float",
    "half", "movedim", "moveaxis", "permute", "positive", "ravel", "requires_grad", "reshape", "reshape_as",
    "squeeze", "swapaxes", "swapdims", "t", "to", "transpose", "type", "type_as", "unflatten", "unsqueeze", "view",
    "view_as",
})  # fmt: skip
"""Functions that keep every value of their first argument (up to rounding, where they change the precision)."""

_WITHOUT_DATA = frozenset({
    "arange", "empty", "empty_like", "empty_strided", "eye", "full", "full_like", "linspace", "logspace",
    "new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros", "normal", "ones", "ones_like", "rand",
    "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "zeros", "zeros_like",
})  # fmt: skip
"""Functions whose result does not depend on the values of any argument."""

_SYNONYMS = {
    "truediv": "div", "true_divide": "div", "divide": "div", "rdiv": "div", "idiv": "div", "multiply": "mul",
    "subtract": "sub", "negative": "neg", "iter": "unbind", "concat": "cat", "concatenate": "cat",
}  # fmt: skip


class Identities:
    """Keys of tensors: equal exactly if two tensors hold the same elements of one storage, written to as often.

    `dropout` in eval mode, `view`, `permute` or a container that returns its child's output keep the key;
    an operation in place changes it. Needs version counters, so inference mode has to be off.
    """

    def __init__(self) -> None:
        self._storages: dict[int, StorageWeakRef] = {}

    @no_type_check  # called for every argument and result
    def key(self, tensor: Tensor) -> Key | None:
        """Return the tensor's key; None for a tensor without a storage (sparse, nested)."""
        try:
            storage = tensor.untyped_storage()
            address = storage_address(storage)
            # A weak reference keeps the address from being used again, and the memory itself is still freed.
            if address not in self._storages:
                self._storages[address] = StorageWeakRef(storage)
            return address, version(tensor), tensor.storage_offset(), tensor.dtype, _extent(tensor)
        except (RuntimeError, NotImplementedError):
            return None


def _extent(tensor: Tensor) -> tuple[tuple[int, int], ...]:
    """Say which elements of the storage a tensor holds, whatever the order of its axes: merged (stride, size)."""
    if tensor.is_contiguous():
        return ((1, tensor.numel()),)
    merged: list[tuple[int, int]] = []
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if merged and stride == merged[-1][0] * merged[-1][1]:
            merged[-1] = (merged[-1][0], merged[-1][1] * size)
        else:
            merged.append((stride, size))
    return tuple(merged)


def function_name(function: Callable[..., Any]) -> str:
    """Return a torch function's plain name: `add` for `+`, `+=`, `Tensor.add_`, `torch.add` and `1 + tensor`."""
    name = getattr(function, "__name__", type(function).__name__)
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", "get")
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        if name[0] in "ir" and hasattr(operator, f"__{name[1:]}__"):
            name = name[1:]
    name = name.split(".")[0].strip("_")
    return _SYNONYMS.get(name, name)


def source(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Find the argument whose values a function hands on unchanged if their number stays the same; else None."""
    given = [*tensors(args), *tensors(kwargs)]
    if not given:
        return None
    if name in _PRESERVING:
        return given[0]
    if name == "cat":  # as in a cache that is still empty
        filled = [tensor for tensor in given if tensor.numel()]
        return filled[0] if len(filled) == 1 else None
    if name == "pad" and len(args) > 1 and not any(args[1]):
        return given[0]
    return None


def ignores_data(name: str) -> bool:
    """Tell whether a function's result is the same whatever the values of its arguments."""
    return name in _WITHOUT_DATA
