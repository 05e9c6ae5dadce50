"""Signatures that are checked while the tests run: by jaxtyping where they name a shape, by beartype alone elsewhere.

jaxtyping's import hook wraps every function, and its wrapper binds the arguments of every call anew and checks them
twice, for the sake of its messages. Here they are checked once: where a shape is named in a context of jaxtyping's, so
that axes of one name have one size; elsewhere there is no axis to compare. A function inside another is made anew at
each call of that, but its check is not.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf

Checker = Callable[..., Any]

_of_one_call = jaxtyping.jaxtyped("context")  # which holds nothing, so that one serves all calls

_SAME_ERROR = BeartypeConf(violation_type=jaxtyping.TypeCheckError)


def check_shapes_where_they_are_named() -> None:
    """Have jaxtyping's import hook decorate as this module says; before the package is imported."""
    jaxtyping.jaxtyped = functools.partial(_jaxtyped, jaxtyping.jaxtyped)


def _jaxtyped(whole: Callable[..., Any], *decorated: Any, **checker: Any) -> Any:
    if decorated or not callable(checker.get("typechecker")):
        return whole(*decorated, **checker)
    return functools.partial(_decorate, whole, checker["typechecker"])


def _decorate(whole: Callable[..., Any], typechecker: Checker, decorated: Any) -> Any:
    if inspect.isclass(decorated):
        if dataclasses.is_dataclass(decorated) and "__init__" in vars(decorated):
            decorated.__init__ = _decorate(whole, typechecker, decorated.__init__)  # type: ignore[method-assign]
        return decorated
    if not isinstance(decorated, FunctionType):
        return whole(decorated, typechecker=typechecker)
    before = _inside_others.get(id(decorated.__code__))
    if before is not None:
        return _the_same_of(before, decorated)
    hints = {name: _type(hint, decorated) for name, hint in decorated.__annotations__.items()}
    shaped = any(_names_a_shape(hint) for hint in hints.values())
    if shaped and inspect.isgeneratorfunction(decorated):
        return whole(decorated, typechecker=typechecker)
    written = decorated.__annotations__
    decorated.__annotations__ = hints
    try:
        checked = typechecker(decorated, conf=_SAME_ERROR)
    finally:
        decorated.__annotations__ = written
    checked.__annotations__ = written
    if "<locals>" in decorated.__qualname__:
        _inside_others[id(decorated.__code__)] = _Checked(decorated, checked, shaped)
    return _in_a_context(checked) if shaped else checked


class _Checked(NamedTuple):
    function: FunctionType
    checked: Any
    shaped: bool


_inside_others: dict[int, _Checked] = {}
"""Functions inside others, by the address of their code, which they keep."""


def _the_same_of(before: _Checked, function: FunctionType) -> Any:
    """The check of a function that has the same code, made before, around this one."""
    vars(function).update(vars(before.function))  # a hash of its content reads what the check has noted down
    if before.checked is before.function:
        return function
    known = before.checked
    parts = known.__code__, known.__globals__, known.__name__, known.__defaults__, known.__closure__
    checked: Any = FunctionType(*parts)
    assert known.__kwdefaults__ is not None, "beartype hands its wrapper what it needs as defaults"
    checked.__kwdefaults__ = {
        name: function if value is before.function else value for name, value in known.__kwdefaults__.items()
    }
    functools.update_wrapper(checked, function)
    return _in_a_context(checked) if before.shaped else checked


def _in_a_context(checked: Callable[..., Any]) -> Callable[..., Any]:
    """Compare the axes of one call with one another, and with those of no other call."""

    @functools.wraps(checked)
    def called(*args: Any, **kwargs: Any) -> Any:
        with _of_one_call:
            return checked(*args, **kwargs)

    return called


def _type(hint: Any, function: FunctionType) -> Any:
    """What an annotation says; anything, as for jaxtyping, where it names what only a type checker imports."""
    place = (id(function.__globals__), hint) if isinstance(hint, str) else None
    if place in _read:
        return _read[place]
    holder: Any = SimpleNamespace(__annotations__={"hint": hint})
    try:
        found = get_type_hints(holder, function.__globals__, include_extras=True)["hint"]
    except Exception:
        return Any
    if place is not None:
        _read[place] = found
    return found


_read: dict[tuple[int, str] | None, Any] = {}
"""What annotations say, by their module's names and their text."""


def _names_a_shape(hint: Any) -> bool:
    if isinstance(hint, list):  # of a callable's arguments
        return any(_names_a_shape(part) for part in hint)
    return (isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)) or any(
        _names_a_shape(part) for part in get_args(hint)
    )
