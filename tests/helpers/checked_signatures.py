"""Signatures that are checked while the tests run: by jaxtyping where they name a shape, by beartype alone elsewhere.

jaxtyping's import hook wraps every function, and its wrapper binds the arguments of every call anew and checks them
twice, so that axes of one name have one size. Where no shape is named, there is no axis to compare: what is left of the
check is beartype's, at a tenth of the time.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf

Checker = Callable[..., Any]

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
    hints = {name: _type(hint, decorated) for name, hint in decorated.__annotations__.items()}
    if any(_names_a_shape(hint) for hint in hints.values()):
        return whole(decorated, typechecker=typechecker)
    written = decorated.__annotations__
    decorated.__annotations__ = hints
    try:
        checked = typechecker(decorated, conf=_SAME_ERROR)
    finally:
        decorated.__annotations__ = written
    checked.__annotations__ = written
    return checked


def _type(hint: Any, function: FunctionType) -> Any:
    """What an annotation says; anything, as for jaxtyping, where it names what only a type checker imports."""
    holder: Any = SimpleNamespace(__annotations__={"hint": hint})
    try:
        return get_type_hints(holder, function.__globals__, include_extras=True)["hint"]
    except Exception:
        return Any


def _names_a_shape(hint: Any) -> bool:
    if isinstance(hint, list):  # of a callable's arguments
        return any(_names_a_shape(part) for part in hint)
    return (isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)) or any(
        _names_a_shape(part) for part in get_args(hint)
    )
