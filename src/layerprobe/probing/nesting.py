"""Tensors inside the nested values that networks take and return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias, no_type_check

from torch import Tensor

Path: TypeAlias = tuple[str, ...]
"""Keys, indices and field names that lead to a tensor inside a nested value."""


def tensors(value: object) -> list[Tensor]:
    """The tensors inside a tensor, or nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for _, tensor in _walk(value, ())]


def named_tensors(value: object) -> list[tuple[Path, Tensor]]:
    """The same tensors with their paths; a tensor that is alone has the path `()`, however deep it lies."""
    if isinstance(value, Tensor):
        return [((), value)]
    found = list(_walk(value, ()))
    return [((), found[0][1])] if len(found) == 1 else found


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A copy of nested tuples, lists and mappings with every tensor replaced; anything else stays itself."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, function) for item in value))
    if type(value) in (tuple, list):
        return type(value)(map_tensors(item, function) for item in value)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, function) for key, item in value.items()}
    return value


@no_type_check  # called for every argument and result
def _walk(value: object, path: Path) -> Iterator[tuple[Path, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    items: Iterator[tuple[object, object]]
    if isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = zip(value._fields, value, strict=True)
    elif isinstance(value, tuple | list):
        items = enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        items = ((field.name, getattr(value, field.name, None)) for field in fields(value))
    else:
        return
    for key, item in items:
        yield from _walk(item, (*path, str(key)))
