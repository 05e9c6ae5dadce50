"""Content hash of what computes: the weights, the structure and the code of a network or of a function."""

from __future__ import annotations

import builtins
import dis
import functools
import hashlib
import importlib
import inspect
import logging
import pickle
import re
import sys
import weakref
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import cache, lru_cache
from importlib import metadata
from importlib.util import find_spec, resolve_name
from pathlib import Path, PurePath
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.probing.capture.hooks import Hooks
from layerprobe.probing.capture.pytree import own_slots

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, torch.dtype, torch.Size, type(...))
_MERGED = (tuple, frozenset, CodeType, MethodType)
"""What the interpreter may make once or several times for the same source."""
_NATIVE = (BuiltinFunctionType, MethodDescriptorType, MethodWrapperType, WrapperDescriptorType)
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""What every module has: its parameters, buffers, modules and hooks, which are read by themselves, its mode, and what
only training and saving call."""
_OF_EVERY_CLASS = frozenset({
    "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__",
    "__conditional_annotations__", "__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__",
    "__firstlineno__", "__match_args__", "__module__", "__non_callable_proto_members__", "__orig_bases__",
    "__parameters__", "__protocol_attrs__", "__static_attributes__", "__type_params__", "__weakref__", "_abc_impl",
})  # fmt: skip
"""What the interpreter, abc, dataclasses and typing note down in a class; what they make of it is read."""
_ABSENT = "absent"
"""Instead of what cannot be imported, as the code will find."""
_ANY_CODE = (eval, exec, globals, __import__, importlib, importlib.import_module)
"""What runs or finds code of which nothing is seen beforehand."""
_STORES = frozenset({"STORE_FAST", "STORE_NAME", "STORE_DEREF", "STORE_GLOBAL"})
_LOADS = ("LOAD_FAST", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_GLOBAL", "LOAD_FROM_DICT")
_ORIGIN = frozenset({"_name_or_path", "name_or_path", "_commit_hash"})
"""Where a pretrained network was read from, which is no part of what it is."""


class NoContentHashError(ValueError):
    """Nothing says whether two things like this one compute the same."""


Named: TypeAlias = dict[int, tuple[Any, str]]
"""Classes and functions by their `id`, with the hash of each by itself."""


def content_hash(*values: Any, named: Named | None = None) -> str:
    """Hash values by what they compute, in 32 hexadecimal digits that are the same in other processes.

    Of a module: its class, parameters, buffers, modules in their order, attributes and forward hooks. Of a function:
    its bytecode, what it encloses, its defaults, and whatever it names or imports, as far as that is not of an
    installed package; of those, the package's version. Of any other object: its class and its attributes.

    Args:
        values: Modules, functions, tensors, containers, plain values.
        named: Where classes and functions that enclose nothing are hashed by themselves, those of earlier calls; what
            is new is added. Values that name the same code are hashed sooner, and to other hashes, than without.

    Raises:
        NoContentHashError: Naming what cannot be looked into.
    """
    walk = _Walk(named)
    try:
        for value in values:
            walk.add(value, "")
    except NoContentHashError:
        raise
    except Exception as error:  # objects and modules of anybody's make may raise anything when they are looked into
        raise NoContentHashError(f"looking into it fails ({type(error).__name__}: {error})") from error
    return walk.digest.hexdigest()[:32]


class _Walk:
    """One pass over values; what appears twice is hashed once, and then by its place."""

    def __init__(self, named: Named | None = None) -> None:
        self.digest = hashlib.sha256()
        self._named_apart = named
        self._seen: dict[int, int] = {}
        self._held: list[Any] = []

    def add(self, value: Any, path: str) -> None:
        """Hash a value, called by its path in messages."""
        if type(value) in _PLAIN:
            self._say(type(value).__name__, repr(value))
        elif self._named_apart is not None and _encloses_nothing(value):
            if id(value) not in self._named_apart:
                self._named_apart[id(value)] = value, self._apart(value, path)
            self._say("named", self._named_apart[id(value)][1])
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
            self._say("package", value.__name__, version := package_version(value.__name__))
            if not version:
                self._named({name: part for name, part in sorted(vars(value).items()) if not _is_dunder(name)}, path)
        elif isinstance(value, type):
            self._class(value, path)
        elif isinstance(value, FunctionType):
            self._function(value, path)
        elif isinstance(value, MethodType):
            self._named({"function": value.__func__, "self": value.__self__}, path)
        elif isinstance(value, functools.partial):
            self._named({"function": value.func, "args": value.args, "keywords": value.keywords}, path)
        elif isinstance(value, _NATIVE) or type(value).__module__ == "torch._ops":
            self._say(
                "native", module := getattr(value, "__module__", None), getattr(value, "__qualname__", str(value))
            )
            if module is None:  # `table.get`
                self.add(getattr(value, "__self__", None), path)
        elif isinstance(value, MemberDescriptorType | GetSetDescriptorType):
            self._say("descriptor", value.__qualname__)
        elif isinstance(value, PurePath):
            self._say("path", value)
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
            self._kind(value, path)
            self._say(*sorted(self._apart(item, path) for item in value))
        elif isinstance(value, Mapping):
            self._kind(value, path)
            for key, item in value.items():
                self.add(key, path)
                self.add(item, f"{path}[{key!r}]")
            self._say("end")
        elif isinstance(value, list | tuple | deque | np.ndarray):
            self._kind(value, path)
            self._say(len(value))
            for i, item in enumerate(value):
                self.add(item, f"{path}[{i}]")
        else:
            self._object(value, path)

    def _kind(self, value: Any, path: str) -> None:
        """Name the class of a container, and what it has besides its items."""
        self.add(type(value), path)
        if not package_version(type(value).__module__):
            self._named(getattr(value, "__dict__", {}), path)

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
        slots = [name for kind in type(value).__mro__ for name in own_slots(kind)]
        attributes |= {name: getattr(value, name) for name in slots if hasattr(value, name)}
        self.add(type(value), path)
        for plain in (int, float, complex, str, bytes):
            if isinstance(value, plain):
                self._say(plain.__repr__(value))
        if attributes or hasattr(value, "__dict__"):
            self._named(attributes, path)
            return
        try:
            self.digest.update(pickle.dumps(value, protocol=4))
        except Exception as error:  # whatever an object that is no data raises
            kind = type(value).__qualname__
            raise NoContentHashError(f"{path or 'it'} is a {kind}, of which nothing shows what it does") from error

    def _class(self, value: type, path: str) -> None:
        self._say("class", value.__module__, value.__qualname__, version := package_version(value.__module__))
        for base in value.__mro__[1:]:
            # Torch makes classes of somebody's own, and calls them torch's: what they are made of is read all the same.
            if not (version and package_version(base.__module__)):
                self.add(base, path)
        if not version:
            self.add(type(value), path)
        for name, part in sorted(vars(value).items()):
            if name in _OF_EVERY_CLASS:
                continue
            if version:  # only what somebody else has put there
                if isinstance(part, FunctionType) and not package_version(str(part.__globals__.get("__name__", ""))):
                    self._named({name: part}, path)
            elif isinstance(part, property):
                self._named({name: [part.fget, part.fset, part.fdel]}, path)
            elif isinstance(part, classmethod | staticmethod):
                self._named({name: part.__func__}, path)
            else:
                self._named({name: part.func if isinstance(part, functools.cached_property) else part}, path)

    def _function(self, value: FunctionType, path: str) -> None:
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None and value.__code__.co_filename.startswith("<"):
            self.add(wrapped, path)  # inside a check of types that is made as it runs
            return
        module = str(value.__globals__.get("__name__", ""))  # a decorator writes another one to `__module__`
        version = package_version(module)
        self._say("function", module, value.__qualname__ if version else "", version)
        self.add(wrapped, path)
        if not version:
            self._code(value.__code__, path)
            self.add([value.__defaults__, value.__kwdefaults__], path)
            self._named({name: part for name, part in sorted(vars(value).items()) if not _is_dunder(name)}, path)
            for name, found in _named_by(value, path):
                self._named({name: found}, "")
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


def _encloses_nothing(value: Any) -> bool:
    return isinstance(value, type) or (isinstance(value, FunctionType) and not value.__closure__)


def raw_bytes(values: Tensor) -> Any:
    """Return the bytes of a tensor's values, in the order of its axes."""
    plain = values.detach().resolve_conj().resolve_neg().to("cpu").contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data


def _own_attributes(value: nn.Module) -> Iterator[tuple[str, Any]]:
    """Return what a module has that its base class of torch or Lightning does not bring."""
    left_out = set(_OF_EVERY_MODULE | _ORIGIN)
    for base in type(value).__mro__:
        if base.__name__ == "LightningModule":
            left_out |= vars(base()).keys() | {"log", "log_dict"}
    return ((name, part) for name, part in sorted(vars(value).items()) if name not in left_out)


def _is_ours(hook: Any) -> bool:
    """Tell whether a hook only looks on."""
    return isinstance(getattr(getattr(hook, "func", hook), "__self__", None), Hooks)


def _named_by(value: FunctionType, path: str) -> Iterator[tuple[str, Any]]:
    """Return what a function's code names outside itself, called as it is there.

    Of anybody's own modules, only what is taken out of them (`package.module.function`); all that is in them, where
    they are handed on.

    Raises:
        NoContentHashError: It runs code that is not seen, or imports what cannot be found.
    """
    steps = _instructions(value.__code__)
    imported = _imports(steps, value, path)
    for i, (step, name) in enumerate(steps):
        if not step.startswith(_LOADS) or _is_dunder(str(name)):
            continue
        found = list(imported.get(name, ()))
        if step.startswith(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT")):
            found += [names[name] for names in (value.__globals__, vars(builtins)) if name in names][:1]
        for part in found:
            if any(part is one for one in _ANY_CODE):
                raise NoContentHashError(f"{path or value.__qualname__} calls {name}, and nothing says with what")
            called = str(name)
            for after, attribute in steps[i + 1 :]:
                if not _is_own(part) or after not in ("LOAD_ATTR", "LOAD_METHOD"):
                    break
                part, called = _member(part, attribute), f"{called}.{attribute}"
                if part is _ABSENT:
                    raise NoContentHashError(f"{path or value.__qualname__} names {called}, which is not there")
            yield called, part


def _imports(steps: Sequence[tuple[str, Any]], value: FunctionType, path: str) -> Mapping[str, list[Any]]:
    """List what code imports as it runs, by the name that it gives it."""
    bound: defaultdict[str, list[Any]] = defaultdict(list)
    waiting: list[Any] = []
    whole: Any = None
    chosen: Any = ()
    for i, (step, name) in enumerate(steps):
        if step == "IMPORT_NAME":
            level, chosen = steps[i - 2][1], steps[i - 1][1]
            whole = _module("." * level + name, value.__globals__, path)
            above = sys.modules.get(name.partition(".")[0])
            waiting = [above if not chosen and _is_own(whole) else whole]  # `import a.b` gives `a`
        elif step == "IMPORT_FROM":
            waiting = [_member(whole, name) if chosen else whole]  # `import a.b as c` gives `a.b`
        elif step in _STORES and waiting:
            bound[name].append(waiting.pop())
        elif step == "POP_TOP":
            waiting = []
    return bound


def _module(name: str, names: Mapping[str, Any], path: str) -> Any:
    """Identify a module that code imports: of an installed package its name and version.

    Raises:
        NoContentHashError: It cannot be imported.
    """
    try:
        package = names.get("__package__") or str(names.get("__name__", "")).rpartition(".")[0]
        name = resolve_name(name, package)
        if package_version(name):
            return f"{name} {package_version(name)}"
        return sys.modules.get(name) or importlib.import_module(name)
    except ModuleNotFoundError:
        return _ABSENT
    except ImportError as error:
        raise NoContentHashError(f"{path or 'it'} imports {name}, which fails ({error})") from error


def _member(module: Any, name: str) -> Any:
    """Return what `from module import name` gives."""
    if not _is_own(module):
        return module
    try:
        return getattr(module, name)
    except AttributeError:
        with suppress(ModuleNotFoundError):
            return importlib.import_module(f"{module.__name__}.{name}")
    return _ABSENT


def _is_own(value: Any) -> bool:
    """Tell whether it is a module that is of no installed package."""
    return isinstance(value, ModuleType) and not package_version(value.__name__)


def _is_dunder(name: str) -> bool:
    return name[:2] == name[-2:] == "__"


@lru_cache(maxsize=4096)
def _instructions(code: CodeType) -> tuple[tuple[str, Any], ...]:
    """List what code does, with names or constants, inner functions included; code that is asked for again is known."""
    found: list[tuple[str, Any]] = []
    for step in dis.get_instructions(code):
        if isinstance(step.argval, tuple) and "_FAST_" in step.opname:  # two in one
            both = re.findall("(?:LOAD|STORE)_FAST", step.opname)
            found += zip(both, step.argval, strict=False)
        elif step.opname not in ("EXTENDED_ARG", "CACHE", "NOP"):
            found.append((step.opname, step.argval))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found += _instructions(constant)
    return tuple(found)


@cache
def package_version(module: str) -> str:
    """Return the version of the installed package that a module belongs to; empty where it is anybody's own code."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    package: Any = sys.modules.get(top)
    if package is None:
        with suppress(ImportError, ValueError):
            package = find_spec(top)
    file = getattr(package, "__file__", None) or getattr(package, "origin", None) or next(_folders(package), "")
    if not {"site-packages", "dist-packages"} & set(Path(file).parts):
        return ""
    try:
        return str(getattr(package, "__version__", None) or metadata.version(top))
    except metadata.PackageNotFoundError:
        named = metadata.packages_distributions().get(top)
        return metadata.version(named[0]) if named else ""


def _folders(package: Any) -> Iterator[str]:
    return iter(getattr(package, "__path__", None) or getattr(package, "submodule_search_locations", None) or ())
