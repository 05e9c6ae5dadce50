"""State of an object, by its kind: what it was, and how it becomes that again."""

from __future__ import annotations

import gc
import warnings
from abc import ABC, abstractmethod
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count, islice, repeat
from operator import is_, length_hint
from types import GeneratorType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layerprobe.compat.torch import sparse_parts, version

_INTEGER_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of as many bytes."""
_ABSENT = object()
_SAMPLED = 4096


class AbstractKept(ABC):
    """An object that can change, and what it was."""

    __slots__ = ("thing",)

    thing: Any

    @abstractmethod
    def put_back(self) -> str | None:
        """Make the object what it was, writing only where something has changed.

        Returns:
            What has happened to it, where that cannot be undone.
        """


class KeptDict(AbstractKept):
    """The entries of a dictionary, such as the attributes of an object."""

    __slots__ = ("content",)

    def __init__(self, thing: dict[Any, Any]) -> None:
        self.thing, self.content = thing, dict(thing) if thing else {}

    def put_back(self) -> None:
        """Set the entries that differ, or all of them where others have come or gone."""
        now, before = self.thing, self.content
        if not now and not before:
            return
        if len(now) == len(before) and all(map(is_, now, before)):
            if not all(map(is_, now.values(), before.values())):
                for key, value in before.items():
                    if now[key] is not value:
                        dict.__setitem__(now, key, value)
            return
        kind: Any = OrderedDict if isinstance(now, OrderedDict) else dict
        kind.clear(now)
        for key, value in before.items():
            kind.__setitem__(now, key, value)


class KeptList(AbstractKept):
    """The items of a list or a deque."""

    __slots__ = ("content",)

    def __init__(self, thing: list[Any] | deque[Any]) -> None:
        self.thing, self.content = thing, list(thing)

    def put_back(self) -> None:
        """Fill it again where an item differs."""
        now, before = self.thing, self.content
        if len(now) == len(before) and all(map(is_, now, before)):
            return
        kind: Any = list if isinstance(now, list) else deque
        kind.clear(now)
        kind.extend(now, before)


class KeptSet(AbstractKept):
    """The members of a set."""

    __slots__ = ("content",)

    def __init__(self, thing: set[Any]) -> None:
        self.thing, self.content = thing, set(thing)

    def put_back(self) -> None:
        """Fill it again where a member differs."""
        if self.thing != self.content:
            set.clear(self.thing)
            set.update(self.thing, self.content)


class KeptBytes(AbstractKept):
    """The bytes of a `bytearray` or an `array`."""

    __slots__ = ("content",)

    def __init__(self, thing: bytearray | array[Any]) -> None:
        self.thing, self.content = thing, thing[:]

    def put_back(self) -> None:
        """Write them where one differs."""
        if self.thing != self.content:
            self.thing[:] = self.content


class KeptTensor(AbstractKept):
    """The values of a tensor, its place in memory, and whether it asks for a gradient."""

    __slots__ = ("alias", "requires_grad", "values")

    def __init__(self, thing: Tensor) -> None:
        self.thing, self.requires_grad = thing, thing.requires_grad
        self.alias = thing.detach()
        self.values = self.alias.clone()

    def put_back(self) -> None:
        """Write the values where one differs."""
        # Writing only where something changed: a write tells autograd that a tensor it saved is no longer valid.
        # A write to a sparse tensor may give it other indices and values, which the alias does not follow.
        held = self.alias if self.thing.layout is torch.strided else self.thing.detach()
        if not _same_bits(held, self.values):
            with torch.no_grad():
                held.copy_(self.values)
                if held is not self.alias:
                    self.thing.data = held
        _put_in_place(self.thing, self.alias)
        if self.thing.requires_grad != self.requires_grad:
            self.thing.requires_grad_(self.requires_grad)


class KeptParameter(AbstractKept):
    """A parameter, whose values are held but not copied: that would double a large network."""

    __slots__ = ("alias", "grad", "grad_version", "requires_grad", "some", "version")

    def __init__(self, thing: Tensor) -> None:
        self.thing, self.requires_grad = thing, thing.requires_grad
        self.alias, self.version = thing.detach(), version(thing)
        self.some = _some(self.alias)
        self.grad = thing.grad if thing.is_leaf else None
        self.grad_version = 0 if self.grad is None else version(self.grad)

    def put_back(self) -> str | None:
        """Put back all but values that were written in place."""
        parameter = self.thing
        _put_in_place(parameter, self.alias)
        if parameter.requires_grad != self.requires_grad:
            parameter.requires_grad_(self.requires_grad)
        if parameter.is_leaf and parameter.grad is not self.grad:
            parameter.grad = self.grad
        if self.grad is not None and version(self.grad) != self.grad_version:
            return "a parameter's gradient, was written to"
        # What is written through `.data` is not counted.
        now = _some(self.alias)
        unlike = self.some is not None and now is not None and not _same_bits(self.some, now)
        return "a parameter, was written to" if unlike or version(parameter) != self.version else None


class KeptArray(AbstractKept):
    """The values of an array."""

    __slots__ = ("values",)

    def __init__(self, thing: npt.NDArray[Any]) -> None:
        self.thing, self.values = thing, thing.copy()

    def put_back(self) -> str | None:
        """Write the values where one differs."""
        now, before = self.thing, self.values
        if now.shape != before.shape:
            return "an array, has another shape"
        if now.dtype.hasobject or now.tobytes() != before.tobytes():
            now[...] = before
        return None


class KeptState(AbstractKept):
    """What one function reads and another one sets: a random generator, the place in a file, a closure's variable."""

    __slots__ = ("set_state", "state")

    def __init__(self, thing: Any, get_state: Callable[[], Any], set_state: Callable[[Any], object]) -> None:
        self.thing, self.state, self.set_state = thing, get_state(), set_state

    def put_back(self) -> None:
        """Set the state."""
        self.set_state(self.state)


class KeptSlots(AbstractKept):
    """The attributes of an object that has no dictionary of them."""

    __slots__ = ("content",)

    def __init__(self, thing: Any, names: list[str]) -> None:
        self.thing = thing
        self.content = {name: getattr(thing, name, _ABSENT) for name in names}

    def put_back(self) -> None:
        """Set the attributes that differ."""
        for name, before in self.content.items():
            if getattr(self.thing, name, _ABSENT) is not before:
                if before is _ABSENT:
                    object.__delattr__(self.thing, name)
                else:
                    object.__setattr__(self.thing, name, before)


class KeptClass(AbstractKept):
    """What a class holds besides its methods."""

    __slots__ = ("content",)

    def __init__(self, thing: type) -> None:
        self.thing, self.content = thing, class_attributes(thing)

    def put_back(self) -> None:
        """Set the attributes that differ, and drop new ones."""
        now = class_attributes(self.thing)
        for name in now.keys() - self.content.keys():
            delattr(self.thing, name)
        for name, before in self.content.items():
            if now.get(name, _ABSENT) is not before:
                setattr(self.thing, name, before)


class KeptGlobals(AbstractKept):
    """The global variables that a function names."""

    __slots__ = ("content",)

    def __init__(self, thing: dict[str, Any], names: list[str]) -> None:
        self.thing, self.content = thing, {name: thing[name] for name in names}

    def put_back(self) -> None:
        """Set those that differ."""
        for name, before in self.content.items():
            if self.thing.get(name, _ABSENT) is not before:
                self.thing[name] = before


class Watched(AbstractKept):
    """Something that is too large to copy, or cannot be: that it has changed can be told, but not be undone."""

    __slots__ = ("before", "holds", "mark", "what")

    def __init__(self, thing: Any, mark: Callable[[Any], Any], what: str) -> None:
        self.thing, self.mark, self.what = thing, mark, what
        self.before = mark(thing)
        # Told apart by their addresses: these must not be used again.
        self.holds = gc.get_referents(thing) if hasattr(type(thing), "__next__") or mark is held_mark else None

    def put_back(self) -> str | None:
        """Say whether it has changed."""
        return self.what if self.mark(self.thing) != self.before else None


class StandIn:
    """Puts a copy of an iterator into its place, and leaves the iterator itself alone.

    Raises:
        TypeError: It cannot be copied.
    """

    def __init__(self, holder: Any, key: Any, iterator: Iterator[Any]) -> None:
        self.holder, self.key, self.iterator = holder, key, iterator
        copy_iterator(iterator)

    def step_in(self) -> None:
        """Let the copy be used from now on, until the holder is put back."""
        kind: Any = dict if isinstance(self.holder, dict) else list
        kind.__setitem__(self.holder, self.key, copy_iterator(self.iterator))


def copy_iterator(iterator: Iterator[Any]) -> Iterator[Any]:
    """Make a second iterator at the same place, with copies of the iterators that it runs over.

    Raises:
        TypeError: It, or one that it runs over, is a generator or another that cannot be copied.
    """

    def copied(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(copied(part) for part in value)
        return copy_iterator(value) if hasattr(type(value), "__next__") else value

    kind: Any = type(iterator)
    if not is_plain_iterator(kind):
        raise TypeError(f"a {type(iterator).__name__} cannot be copied")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        reduced: Any = iterator.__reduce__()
        made = reduced[0](*copied(reduced[1]))
        if len(reduced) > 2 and reduced[2] is not None:
            made.__setstate__(copied(reduced[2]))
    return made


@cache
def is_plain_iterator(kind: Any) -> bool:
    """Tell whether a class is one of Python's own iterators, but not that of a function with `yield`."""
    return (
        hasattr(kind, "__next__")
        and kind.__module__ in ("builtins", "itertools", "collections", "_collections")
        and kind is not GeneratorType
    )


def class_attributes(kind: type) -> dict[str, Any]:
    """Return what a class holds besides its methods and what Python itself keeps there."""
    return {
        name: value
        for name, value in vars(kind).items()
        if not (name.startswith("__") or name == "_abc_impl" or callable(value) or hasattr(type(value), "__get__"))
    }


def generator_mark(generator: GeneratorType[Any, Any, Any]) -> Any:
    """Say where a function with `yield` stands: its place, and what its variables hold."""
    frame = generator.gi_frame
    return None if frame is None else (frame.f_lasti, [id(held) for held in gc.get_referents(generator)])


def iterator_mark(iterator: Iterator[Any]) -> Any:
    """Say where one of Python's own iterators stands."""
    shown = repr(iterator) if isinstance(iterator, count | repeat) else ""
    return shown, length_hint(iterator, -1), [id(held) for held in gc.get_referents(iterator)]


def held_mark(thing: Any) -> Any:
    """Say which objects an object of an extension holds."""
    return [id(held) for held in gc.get_referents(thing)]


def size_mark(container: Any) -> Any:
    """Say how many items a large container has, and which are some of them."""
    some = container[:: max(len(container) // _SAMPLED, 1)] if isinstance(container, list) else islice(container, 1)
    return len(container), [id(item) for item in some]


def array_mark(values: npt.NDArray[Any]) -> Any:
    """Return a few thousand of a large array's values; of a file that is mapped into memory, a few."""
    number = 64 if isinstance(values, np.memmap) else _SAMPLED
    return values.shape, values.flat[:: max(values.size // number, 1)].tobytes()


def tensor_mark(tensor: Tensor) -> Any:
    """Return how often a large tensor has been written to, and a few thousand of its values."""
    some: Any = None
    if tensor.device.type == "cpu" and tensor.layout is torch.strided and tensor.is_contiguous() and tensor.numel():
        flat = tensor.detach().view(-1)[:: max(tensor.numel() // _SAMPLED, 1)]
        some = flat.contiguous().view(torch.uint8).numpy().tobytes()
    return version(tensor), tensor.shape, some


def _some(parameter: Tensor) -> Tensor | None:
    """Return a few of a parameter's values."""
    if parameter.is_meta or not (type(parameter) is Tensor and parameter.is_contiguous() and parameter.numel()):
        return None
    return parameter.view(-1)[:: max(parameter.numel() // 16, 1)].clone()


def _put_in_place(tensor: Tensor, alias: Tensor) -> None:
    """Give a tensor the memory and the shape back that it had."""
    moved = tensor.shape != alias.shape or tensor.dtype != alias.dtype or tensor.device != alias.device
    if not moved and tensor.layout is torch.strided:
        moved = tensor.data_ptr() != alias.data_ptr() or tensor.stride() != alias.stride()
    if moved:
        tensor.data = alias


def _same_bits(left: Tensor, right: Tensor) -> bool:
    if left.is_meta:
        return True
    if parts := sparse_parts(left):
        if left.shape != right.shape or left.layout is not right.layout:
            return False
        pairs = zip(parts, sparse_parts(right), strict=True)
        return all(one.shape == other.shape and _same_bits(one, other) for one, other in pairs)
    # A quantised tensor that is viewed as integers is not valid.
    strided = left.layout is torch.strided and not left.is_quantized and not left.is_complex()
    if not strided or left.element_size() not in _INTEGER_OF_SIZE:
        return torch.equal(left, right)
    integer = _INTEGER_OF_SIZE[left.element_size()]
    return torch.equal(left.view(integer), right.view(integer))
