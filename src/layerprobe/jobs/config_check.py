"""Check of a configuration: its values against the types that its classes say they take."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from os import PathLike
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import hydra

from layerprobe.formatting import nearest
from layerprobe.results.config_migration import GONE

_SCALAR = (int, float, bool, str, types.NoneType)
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null", str: "a word"}
_OWN = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")


def wrong_values(config: Mapping[str, Any]) -> dict[str, str]:
    """Find words where numbers are wanted, fractions where whole numbers are, and words that are none of a few.

    Args:
        config: A resolved configuration.

    Returns:
        By key, what was found and what is wanted.
    """
    gone = {
        f"{path}._target_": f"is {node['_target_']}, which is gone: {GONE[node['_target_']]}"
        for path, node in _targets(config, "")
        if node["_target_"] in GONE
    }
    return gone | {
        f"{path}.{name}": f"is {value!r}, expected {_expected(value, hints[name])}"
        for path, node in _targets(config, "")
        for hints in [_hints(node["_target_"])]
        for name, value in node.items()
        if name in hints and name not in _OWN and not _fits(value, hints[name])
    }


def _targets(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield path, node
        for name, value in node.items():
            yield from _targets(value, f"{path}.{name}".lstrip("."))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _targets(value, f"{path}.{i}")


def _hints(target: str) -> Mapping[str, Any]:
    """What each parameter of the target takes; nothing where it does not say or cannot be found."""
    try:
        found = hydra.utils.get_object(target)
        hints = get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except Exception:  # finding a class imports its module, which may raise anything; building it says what is wrong
        return {}
    return {name: hint for name, hint in hints.items() if name != "return"}


def _members(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        for member in get_args(hint):
            yield from _members(member)
    else:
        yield hint


def _fits(value: Any, hint: Any) -> bool:
    return any(_is(value, member) for member in _members(hint))


def _is(value: Any, hint: Any) -> bool:
    """Whether a plain value may be meant for one type; in doubt it may."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    origin = get_origin(hint) or hint
    if value is None or isinstance(value, Mapping) or not inspect.isclass(origin):
        return True
    if isinstance(value, str):
        if issubclass(origin, str | Enum | PathLike):
            return True
        return issubclass(str, origin) and all(_fits(value, part) for part in get_args(hint))
    if isinstance(value, list):
        return not issubclass(origin, _SCALAR)
    if isinstance(value, float) and not value.is_integer():
        return issubclass(origin, float | str | PathLike) or isinstance(value, origin)
    return (issubclass(origin, (*_SCALAR, PathLike)) and origin is not type(None)) or isinstance(value, origin)


def _expected(value: Any, hint: Any) -> str:
    members = list(_members(hint))
    words = [word for member in members if get_origin(member) is Literal for word in get_args(member)]
    if words and isinstance(value, str):
        return f"one of a few words. {nearest(value, map(str, words))}"
    names = [_NAMES.get(get_origin(member) or member) or _called(member) for member in members]
    return " or ".join(dict.fromkeys(names)) + "."


def _called(hint: Any) -> str:
    origin = get_origin(hint) or hint
    if inspect.isclass(origin) and (issubclass(list, origin) or issubclass(origin, list | tuple)):
        parts = [_NAMES.get(part) or _called(part) for part in get_args(hint)[:1]]
        return "a list" + "".join(f" whose items are each {part}" for part in parts)
    if inspect.isclass(origin):
        return f"a {origin.__name__}"
    return "something else"
