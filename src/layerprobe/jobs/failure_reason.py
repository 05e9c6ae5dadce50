"""Reason of a failure: what went wrong in a job, in words of its own and not of what called it."""

from __future__ import annotations

import importlib
import re
from typing import Any

from hydra.errors import CompactHydraException, InstantiationException

from layerprobe.formatting import is_message, nearest
from layerprobe.jobs.argument_types import arguments_of


def reason(error: BaseException) -> str:
    """Say what went wrong, without what Hydra says around it.

    Returns:
        Its message; with its kind where the message alone would say too little.
    """
    cause = cause_of(error)
    if isinstance(cause, ValueError | OSError | RuntimeError | CompactHydraException) or is_message(cause):
        return str(cause)
    if not isinstance(error, InstantiationException):
        return f"{type(cause).__name__}: {cause}"
    key = re.search(r"full_key: (\S+)", str(error))
    where = f"{key[1]}." if key else ""
    if absent := re.match(r"Error locating target '(.*?)'", str(error)):
        return f"{where}_target_={absent[1]} cannot be found. {_why_absent(absent[1])}"
    if not key:
        return f"{type(cause).__name__}: {cause}"
    said = f"{key[1]}: {type(cause).__name__}: {str(cause).rstrip('.')}."
    called = re.match(r"Error in call to target '(.*?)'", str(error))
    unknown = re.search(r"unexpected keyword argument '(\w+)'$", str(cause))
    if called and unknown and (known := arguments_of(called[1])):
        return f"{said} {nearest(unknown[1], known)}"
    return f"{said} To set an argument: {where}NAME=VALUE, or +{where}NAME=VALUE"


def _why_absent(target: str) -> str:
    """Say where the search for a dotted name of Python's ends, and what there is instead."""
    parts = target.split(".")
    for n in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:n])
        try:
            found: Any = importlib.import_module(name)
        except Exception as error:  # a module of the user's own, which may raise anything
            if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
                continue
            return f"Importing {name} ends in {type(error).__name__}: {error}"
        public = [word for word in vars(found) if not word.startswith("_")]
        return f"{name} has no {parts[n]!r}. {nearest(parts[n], public)}"
    return "Is its package installed, or on PYTHONPATH?"


def cause_of(error: BaseException) -> BaseException:
    """Return what went wrong where Hydra built something, or the error itself."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error
