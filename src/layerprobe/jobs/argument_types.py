"""Types of arguments: what the classes and functions that a configuration names say they take, and what fits."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from itertools import chain, repeat
from os import PathLike
from typing import Any, Literal, Optional, Union, get_args, get_origin, get_type_hints

import hydra

from layerprobe.formatting import nearest

_SCALAR = (int, float, bool, str, types.NoneType)
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null", str: "a word"}
_LONGEST = 120
"""Letters of a wrong value that are shown."""


def arguments_of(target: str) -> list[str]:
    """Return the names of the arguments that a class or function takes; none where it takes any, or does not say."""
    try:
        parameters = inspect.signature(hydra.utils.get_object(target)).parameters.values()
    except Exception:  # as for `hints_of`
        return []
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return []
    return [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def hints_of(target: str) -> Mapping[str, Any]:
    """Return what each parameter of the target takes; nothing where it does not say or cannot be found.

    One whose default is None takes None, whatever it says.
    """
    try:
        found = hydra.utils.get_object(target)
        made = found.__init__ if inspect.isclass(found) else found
        hints, parameters = get_type_hints(made), inspect.signature(made).parameters
    except Exception:  # finding a class imports its module, which may raise anything; building it says what is wrong
        return {}
    found = {}
    for name in hints.keys() & parameters:
        with suppress(TypeError):  # of what is no type, such as (int, float)
            found[name] = Optional[hints[name]] if parameters[name].default is None else hints[name]  # noqa: UP045
    return found


def _members(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        for member in get_args(hint):
            yield from _members(member)
    else:
        yield hint


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a plain value may be meant for a type; in doubt it may, as where a protocol refuses to be asked."""
    members = list(_members(hint))
    lists = [one for one in members if inspect.isclass(get_origin(one)) and _takes_list(get_origin(one))]
    if isinstance(value, list) and lists:  # what says which items it takes is asked, and no class beside it
        members = lists
    try:
        return any(_is(value, member) for member in members)
    except TypeError:
        return True


def _is(value: Any, hint: Any) -> bool:
    """Tell whether a plain value may be meant for one type; in doubt it may."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    origin = get_origin(hint) or hint
    if hint is Any or not inspect.isclass(origin):
        return True
    if isinstance(value, Mapping):
        return "_target_" in value or not issubclass(origin, _SCALAR)
    if value is None:
        return issubclass(types.NoneType, origin)
    if isinstance(value, str):
        if issubclass(origin, str | Enum | PathLike) or f"{origin.__module__}.{origin.__name__}" == "torch.device":
            return True
        return issubclass(str, origin) and all(fits(value, part) for part in get_args(hint))
    if isinstance(value, list):
        return not issubclass(origin, _SCALAR) and all(map(fits, value, _items(origin, get_args(hint))))
    if isinstance(value, float) and not value.is_integer():
        return issubclass(origin, float | str | PathLike) or isinstance(value, origin)
    return (issubclass(origin, (*_SCALAR, PathLike)) and origin is not type(None)) or isinstance(value, origin)


def _items(origin: type, parts: Sequence[Any]) -> Iterable[Any]:
    """Return what each item of a list may be, where a list or a tuple is taken."""
    if not parts or not _takes_list(origin):
        return repeat(Any)
    return repeat(parts[0]) if len(parts) == 1 or parts[-1] is Ellipsis else chain(parts, repeat(Any))


def _takes_list(origin: type) -> bool:
    try:
        return issubclass(list, origin) or issubclass(origin, list | tuple)
    except TypeError:
        return False


def found_text(value: Any, hint: Any) -> str:
    """Say what a wrong value is; of a long list, an item that is wrong."""
    said, verb = "null" if value is None else repr(value), "is"
    if isinstance(value, list) and len(said) > _LONGEST:
        wrong = next((item for item in value if not fits([item], hint)), value)
        said, verb = repr(wrong), "is" if wrong is value else "holds"
    return f"{verb} {said if len(said) <= _LONGEST else f'{said[:_LONGEST]}…'}"


def expected_text(value: Any, hint: Any) -> str:
    """Say what would fit a type in place of a wrong value: words, or kinds of value."""
    members = list(_members(hint))
    words = [word for member in members if get_origin(member) is Literal for word in get_args(member)]
    if not isinstance(value, str | int | float):
        words = []
    others = [member for member in members if not words or get_origin(member) is not Literal]
    items = {one: {*_members(get_args(one)[0])} for one in others if _lists(one) and get_args(one)}
    such = [one for one in items if items[one] <= {*others}]
    first = [one for one in others if any(one in items[several] for several in such)]
    rest = [one for one in others if one not in (*first, *such)]
    names = [*map(_called, first), *["a list of such" for _ in such], *map(_called, rest)]
    named = " or ".join(dict.fromkeys(names))
    if not words:
        return f"{named}."
    return f"one of a few words. {nearest(str(value), map(str, words))}" + (f" Or {named}." if named else "")


def _lists(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return inspect.isclass(origin) and _takes_list(origin)


def _called(hint: Any) -> str:
    origin = get_origin(hint) or hint
    if origin in _NAMES:
        return _NAMES[origin]
    if _lists(hint):
        parts = [_called(part) for part in get_args(hint)[:1]]
        return "a list" + "".join(f" whose items are each {part}" for part in parts)
    if inspect.isclass(origin):
        return f"a {origin.__name__}"
    return "something else"
