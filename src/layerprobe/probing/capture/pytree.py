"""Tensors inside the nested values that networks take and return.

Looked into are tuples, lists and deques, named tuples, mappings (also those of a class of their own), dataclasses, and
any other object with attributes. One table, `parts`, says what there is inside a value, for whoever reads the tensors
and for whoever replaces them.
"""

from __future__ import annotations

import copy
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, MethodWrapperType, ModuleType
from typing import Any, TypeAlias, TypeGuard, no_type_check

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

TensorPath: TypeAlias = tuple[str, ...]
"""Keys, indices and names of fields or attributes that lead to a tensor inside a nested value."""

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, slice})
_CLOSED = (Tensor, str, bytes, Enum, type, ModuleType, nn.Module, torch.Generator, torch.Size, np.generic, range)
"""What is not looked into, whatever attributes it has: tensors themselves, and what holds none of a batch."""
_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, MethodWrapperType, partial)
"""What is only there to be called; another object may be callable and hold data, as a graph of PyTorch Geometric."""


def tensors(value: object) -> list[Tensor]:
    """Find the tensors inside a value, in order; see `named_tensors`."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for _, tensor in _walk(value, ())]


def named_tensors(value: object, *, state: bool = False) -> list[tuple[TensorPath, Tensor]]:
    """Find the tensors inside a value with their paths; one that is alone has the path `()`, however deep it lies.

    With `state`, objects that are attributes of other objects are looked into too: of what a module returns, those
    are its state (the layers of a cache of keys and values) and no output.
    """
    if isinstance(value, Tensor):
        return [((), value)]
    found = list(_walk(value, (), state=state))
    return [((), found[0][1])] if len(found) == 1 else found


def packed_sequences(value: object) -> Iterator[PackedSequence]:
    """Find the packed sequences inside a value."""
    if isinstance(value, PackedSequence):
        yield value
    elif isinstance(value, tuple | list | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from packed_sequences(part)


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Copy a value, to any depth, with every tensor replaced, and every NumPy array of numbers as if it were one.

    What appears twice inside the value is one thing in the copy too. What is not looked into stays itself.

    Raises:
        TypeError: An object inside cannot be copied.
    """
    if isinstance(value, Tensor):
        return function(value)
    made: dict[int, Any] = {}
    for _, part in leaves(value):
        if type(part) in _PLAIN or id(part) in made:
            continue
        if isinstance(part, Tensor):
            made[id(part)] = function(part)
        else:
            made[id(part)] = function(torch.from_numpy(part.copy())).cpu().numpy() if _is_array(part) else part
    try:
        return copy.deepcopy(value, made)
    except Exception as error:  # objects of others may refuse a copy in any way
        raise TypeError(
            f"the network's inputs hold an object that cannot be copied ({error}), and a network may overwrite what it "
            "is given. Take the tensors out of it with `inputs`, as a mapping or a tuple."
        ) from error


def is_plain(value: object) -> bool:
    """Tell whether a value without parts is a tensor, an array of numbers, or known to hold no data of a batch."""
    if isinstance(value, _CLOSED) or callable(value) or _is_array(value):
        return True
    if isinstance(value, set | frozenset):
        return all(is_plain(item) and not isinstance(item, Tensor) for item in value)
    if isinstance(value, Iterator | memoryview | bytearray) or hasattr(value, "__array__"):
        return False
    return type(value).__module__.split(".")[0] in sys.stdlib_module_names | {"numpy", "torch"}


def _is_array(value: object) -> TypeGuard[np.ndarray]:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biufc"


@no_type_check  # called for every argument and result
def parts(value: object) -> list[tuple[object, object]] | None:
    """List what there is inside a value, by key, index or name; None where there is nothing to look into."""
    if type(value) in _PLAIN:
        return None
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list | deque) and not isinstance(value, torch.Size):
        return list(enumerate(value))
    return _attributes(value)


def own_slots(kind: type) -> list[str]:
    """Name the attributes that a class itself keeps in slots, as its objects have them: `_Class__private`."""
    own = vars(kind).get("__slots__", ())
    names = []
    for name in (own,) if isinstance(own, str) else own:
        private = name.startswith("__") and not name.endswith("__")
        names.append(f"_{kind.__name__.lstrip('_')}{name}" if private else name)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _attributes(value: Any) -> list[tuple[object, object]] | None:
    """Return the attributes of an object that has its own, a dataclass among them."""
    if isinstance(value, _CLOSED) or hasattr(value, "__array__"):
        return None
    declared = [field.name for field in fields(value)] if is_dataclass(value) else []
    if isinstance(value, (Iterator, *_FUNCTIONS)) and not is_dataclass(value):
        return None
    slots = [name for kind in reversed(type(value).__mro__) for name in own_slots(kind)]
    if not (hasattr(value, "__dict__") or slots or is_dataclass(value)):
        return None
    names = dict.fromkeys([*declared, *slots, *getattr(value, "__dict__", ())])
    return [(name, getattr(value, name)) for name in names if hasattr(value, name)]


@no_type_check  # called for every argument and result
def _walk(value: object, path: TensorPath, *, state: bool = False, above: tuple[int, ...] = (), inside: bool = False):
    if isinstance(value, Tensor):
        yield path, value
        return
    if type(value) in _PLAIN or id(value) in above:
        return
    is_object = not isinstance(value, Mapping | tuple | list | deque) and not is_dataclass(value)
    if is_object and inside and not state:
        return
    above = (*above, id(value))
    for key, part in parts(value) or ():
        yield from _walk(part, (*path, str(key)), state=state, above=above, inside=inside or is_object)


def leaves(
    value: object, path: TensorPath = (), seen: dict[int, object] | None = None
) -> Iterator[tuple[TensorPath, object]]:
    """Find the parts of a value that have none themselves, with their paths; of what appears twice, the first."""
    seen = {} if seen is None else seen
    inside = parts(value)
    if inside is None:
        yield path, value
    elif id(value) not in seen:
        seen[id(value)] = value
        for key, part in inside:
            yield from leaves(part, (*path, str(key)), seen)
