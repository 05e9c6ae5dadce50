"""Content hash of what computes: the weights, the structure and the code of a network or of a function."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import pickle
import sys
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from functools import cache
from importlib import metadata
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.probing.capture.hooks import Hooks

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, torch.dtype, torch.Size, type(...))
_MERGED = (tuple, frozenset, CodeType, MethodType)
"""What the interpreter may make once or several times for the same source."""
_NATIVE = (BuiltinFunctionType, MethodDescriptorType, MethodWrapperType, WrapperDescriptorType)
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""What every module has: its parameters, buffers, modules and hooks, which are read by themselves, its mode, and what
only training and saving call."""
_ORIGIN = frozenset({"_name_or_path", "name_or_path", "_commit_hash"})
"""Where a pretrained network was read from, which is no part of what it is."""


class NoContentHashError(ValueError):
    """Nothing says whether two things like this one compute the same."""


def content_hash(*values: Any) -> str:
    """Hash values by what they compute: equal for two that were made apart, in other processes too.

    Of a module: its class, parameters, buffers, modules in their order, attributes and forward hooks. Of a function:
    its bytecode, what it encloses, its defaults, and the functions and classes that it names, as far as these are not
    of an installed package; of those, the package's version. Of any other object: its class and its attributes.

    Args:
        values: Modules, functions, tensors, containers, plain values.

    Returns:
        32 hexadecimal digits.

    Raises:
        NoContentHashError: Naming what cannot be looked into.
    """
    walk = _Walk()
    for value in values:
        walk.add(value, "")
    return walk.digest.hexdigest()[:32]


class _Walk:
    """One pass over values; what appears twice is hashed once, and then by its place."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._held: list[Any] = []

    def add(self, value: Any, path: str) -> None:
        """Hash a value, called by its path in messages."""
        if type(value) in _PLAIN:
            self._say(type(value).__name__, repr(value))
        elif id(value) in self._seen:
            self._say("again", self._seen[id(value)])
        else:
            if not isinstance(value, _MERGED):
                self._seen[id(value)] = len(self._seen)
                self._held.append(value)  # so that no other object gets its id
            self._add_new(value, path)

    def _say(self, *words: Any) -> None:
        self.digest.update("\0".join(map(str, words)).encode("utf-8", "surrogatepass") + b"\1")

    def _add_new(self, value: Any, path: str) -> None:
        if isinstance(value, Tensor):
            self._tensor(value, path)
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self._say("array", value.dtype, value.shape)
            self.digest.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, torch.device):
            self._say("device", value.type)  # of which number is all the same
        elif isinstance(value, Enum | np.generic):
            self._say(type(value).__qualname__, repr(value))
        elif isinstance(value, ModuleType):
            self._say("package", value.__name__, _version(value.__name__))
        elif isinstance(value, type):
            self._class(value, path)
        elif isinstance(value, FunctionType):
            self._function(value, path)
        elif isinstance(value, MethodType):
            self._named({"function": value.__func__, "self": value.__self__}, path)
        elif isinstance(value, functools.partial):
            self._named({"function": value.func, "args": value.args, "keywords": value.keywords}, path)
        elif isinstance(value, _NATIVE) or type(value).__module__ == "torch._ops":
            self._say("native", getattr(value, "__module__", ""), getattr(value, "__qualname__", str(value)))
        elif isinstance(value, CodeType):
            self._code(value, path)
        elif isinstance(value, torch.jit.ScriptModule):
            raise NoContentHashError(f"{path or 'the network'} is TorchScript, which does not show its code")
        elif isinstance(value, nn.Module):
            self._module(value, path)
        elif isinstance(value, logging.Logger | inspect.Signature):
            self._say("no part of what is computed")
        elif isinstance(value, weakref.ref):
            self.add(value(), path)
        elif isinstance(value, torch.Generator):
            self._tensor(value.get_state(), path)
        elif isinstance(value, set | frozenset):
            self._say(type(value).__name__, *sorted(self._apart(item, path) for item in value))
        elif isinstance(value, Mapping):
            self.add(type(value), path)
            for key, item in value.items():
                self.add(key, path)
                self.add(item, f"{path}[{key!r}]")
            self._say("end")
        elif isinstance(value, list | tuple | deque | np.ndarray):
            self._say(type(value).__name__, len(value))
            for i, item in enumerate(value):
                self.add(item, f"{path}[{i}]")
        else:
            self._object(value, path)

    def _apart(self, value: Any, path: str) -> str:
        other = _Walk()
        other.add(value, path)
        return other.digest.hexdigest()

    def _named(self, parts: Mapping[str, Any], path: str) -> None:
        for name, part in parts.items():
            self._say(name)
            self.add(part, f"{path}.{name}" if path else name)
        self._say("end")

    def _tensor(self, value: Tensor, path: str) -> None:
        if value.layout != torch.strided or value.is_quantized or value.is_nested or value.device.type == "meta":
            raise NoContentHashError(f"{path or 'a tensor'} is of a layout that is not read, or has no values here")
        self._say("tensor", value.dtype, tuple(value.shape))
        try:
            self.digest.update(raw_bytes(value))
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise NoContentHashError(f"{path or 'a tensor'} cannot be read: {error}") from error

    def _module(self, value: nn.Module, path: str) -> None:
        self.add(type(value), path)
        for kind in ("_parameters", "_buffers", "_modules"):
            self._named(vars(value)[kind], path)
        for kind in ("_forward_pre_hooks", "_forward_hooks"):
            self.add([hook for hook in vars(value)[kind].values() if not _is_ours(hook)], path)
        self._named(dict(_own_attributes(value)), path)

    def _object(self, value: Any, path: str) -> None:
        attributes = {
            name: part for name, part in sorted(getattr(value, "__dict__", {}).items()) if name not in _ORIGIN
        }
        slots = [name for kind in type(value).__mro__ for name in _as_tuple(kind.__dict__.get("__slots__", ()))]
        attributes |= {name: getattr(value, name) for name in slots if name[:2] != "__" and hasattr(value, name)}
        self.add(type(value), path)
        if attributes or hasattr(value, "__dict__"):
            self._named(attributes, path)
            return
        try:
            self.digest.update(pickle.dumps(value, protocol=4))
        except Exception as error:  # whatever an object that is no data raises
            kind = type(value).__qualname__
            raise NoContentHashError(f"{path or 'it'} is a {kind}, of which nothing shows what it does") from error

    def _class(self, value: type, path: str) -> None:
        self._say("class", value.__module__, value.__qualname__, version := _version(value.__module__))
        if version:
            return
        for base in value.__mro__[1:]:
            self.add(base, path)
        for name, part in sorted(vars(value).items()):
            part = getattr(part, "__func__", getattr(part, "fget", getattr(part, "func", part)))
            if isinstance(part, FunctionType):
                self._say(name)
                self._said([part], path)
            elif isinstance(part, _PLAIN) and name not in ("__doc__", "__module__", "__firstlineno__"):
                self._say(name, repr(part))

    def _function(self, value: FunctionType, path: str) -> None:
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None and value.__code__.co_filename.startswith("<"):
            self.add(wrapped, path)  # inside a check of types that is made as it runs
            return
        module = str(value.__globals__.get("__name__", ""))  # a decorator writes another one to `__module__`
        version = _version(module)
        self._say("function", module, value.__qualname__ if version else "", version)
        self.add(wrapped, path)
        if not version:
            self._code(value.__code__, path)
            self._said([*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()], path)
            self._said(_globals(value), path)
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # not set yet
                continue
            self._say(name)
            self.add(content, f"{path}.{name}" if path else name)

    def _code(self, value: CodeType, path: str) -> None:
        self._say("code", value.co_code.hex(), value.co_names, value.co_varnames, value.co_freevars)
        for constant in value.co_consts:
            self.add(constant, path)

    def _said(self, values: Iterable[Any], path: str) -> None:
        """What code refers to: constants and code by what they are, any other object by its class."""
        for value in values:
            if callable(value) or isinstance(value, (*_PLAIN, Tensor, ModuleType)):
                self.add(value, path)
            else:
                self._say("refers to", type(value).__qualname__)


def raw_bytes(values: Tensor) -> Any:
    """The bytes of a tensor's values, in the order of its axes."""
    plain = values.detach().resolve_conj().resolve_neg().to("cpu").contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data


def _own_attributes(value: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a module has that its base class of torch or Lightning does not bring."""
    left_out = set(_OF_EVERY_MODULE | _ORIGIN)
    for base in type(value).__mro__:
        if base.__name__ == "LightningModule":
            left_out |= vars(base()).keys() | {"log", "log_dict"}
    return ((name, part) for name, part in sorted(vars(value).items()) if name not in left_out)


def _is_ours(hook: Any) -> bool:
    """Whether a hook only looks on."""
    return isinstance(getattr(getattr(hook, "func", hook), "__self__", None), Hooks)


def _globals(value: FunctionType) -> Iterator[Any]:
    """The global names that a function's code uses, those of modules that are no installed package looked into."""
    names = list(dict.fromkeys(_names(value.__code__)))
    for name in names:
        if name not in value.__globals__ or name.startswith("__"):
            continue
        found = value.__globals__[name]
        yield found
        if isinstance(found, ModuleType) and not _version(found.__name__):
            yield from (vars(found)[inner] for inner in names if inner in vars(found))


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _as_tuple(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


@cache
def _version(module: str) -> str:
    """The version of the installed package that a module belongs to; empty where it is anybody's own code."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    package = sys.modules.get(top)
    file = getattr(package, "__file__", None) or next(iter(getattr(package, "__path__", ())), "")
    if not {"site-packages", "dist-packages"} & set(Path(file).parts):
        return ""
    try:
        return str(getattr(package, "__version__", None) or metadata.version(top))
    except metadata.PackageNotFoundError:
        return ""
