"""Side effects of running a network or reading data: a snapshot of all that changes, but for parameters' values."""

from __future__ import annotations

import gc
import io
import random
import types
import warnings
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache, lru_cache, partial
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from layerprobe.formatting import listed
from layerprobe.probing.capture.object_state import (
    AbstractKept,
    KeptArray,
    KeptBytes,
    KeptClass,
    KeptDict,
    KeptGlobals,
    KeptList,
    KeptParameter,
    KeptSet,
    KeptSlots,
    KeptState,
    KeptTensor,
    StandIn,
    Watched,
    array_mark,
    class_attributes,
    generator_mark,
    held_mark,
    is_plain_iterator,
    iterator_mark,
    size_mark,
    tensor_mark,
)
from layerprobe.probing.capture.pytree import own_slots
from layerprobe.probing.capture.snapshot_scope import ATOMS, PLAIN, RANDOM, is_outside, is_state, is_users

Keep: TypeAlias = "Callable[[Snapshot, Any], None]"

_DICTS = (dict, OrderedDict)

_MIB = 1024**2
_MANY = 2000
_HUGE = 1_000_000
_OBJECTS = 200_000


class Snapshot:
    """What can change in everything that a network or a source of data leads to, at one moment.

    Followed are attributes (of slots, too), containers in containers, functions' closures, partial functions and bound
    methods, and the class attributes and global variables that code outside of installed packages uses. Kept are
    their entries, tensors, arrays, random generators, iterators, and places in files.

    Parameters are held but not copied: that would double a large network. Neither are large tensors and arrays; of
    these, of parameters and of functions with `yield`, `restore` tells what has been changed. Not looked into are the
    items of a container of more than 2,000 containers or objects, live trainers, loggers, optimizers and threads, and
    objects of extensions that show nothing of themselves.

    Args:
        root: A network, or a source of data.
        name: What it is called in messages.
        each: Largest tensor or array to copy, in bytes; a module's own are copied whatever their size.
        total: Bytes to copy in all, likewise.
    """

    def __init__(self, root: Any, name: str = "network", *, each: int = 64 * _MIB, total: int = 1024 * _MIB) -> None:
        self._root, self._name = root, name
        self._each, self._left = each, total
        self._kept: list[AbstractKept] = []
        self._from: dict[int, Any] = {id(root): None}
        self._waiting: deque[Any] = deque([root])
        self._iterators: list[StandIn] = []
        while self._waiting and len(self._from) < _OBJECTS:
            thing = self._waiting.popleft()
            kind: Any = type(thing)
            if keep := _how(kind):
                keep(self, thing)
        for iterator in self._iterators:
            iterator.step_in()

    def restore(self) -> list[str]:
        """Put everything back where it changed; one failure does not keep the rest from being put back.

        Returns:
            What has changed and cannot be put back, each with its place.
        """
        failed: list[str] = []
        raised: BaseException | None = None
        for kept in reversed(self._kept):  # outwards: what an attribute held is whole when the attribute holds it again
            try:
                problem = kept.put_back()
            except Exception as error:  # objects of others may refuse in any way; it is told, and the rest put back
                problem = f"a {type(kept.thing).__name__}: {error}"
            except BaseException as error:  # an interrupt waits until all is put back
                raised, problem = error, None
            if problem is not None:
                failed.append(f"{self._path(kept.thing)} ({problem})")
        if raised is not None:
            raise raised
        return failed[::-1]

    def reset(self) -> list[str]:
        """Put everything back as `restore` does, to go on: what is changed from here can be put back again."""
        failed = self.restore()
        for iterator in self._iterators:
            iterator.step_in()
        return failed

    def seed_generators(self, seed: int) -> None:
        """Let the random generators that are kept start from a seed, until they are put back."""
        for kept in self._kept:
            _seed_generator(kept.thing, seed)

    def look_into(self, things: Iterable[Any], parent: Any) -> None:
        """Follow what an object leads to."""
        known, waiting = self._from, self._waiting
        for thing in things:
            kind = type(thing)
            if kind not in PLAIN and id(thing) not in known:
                known[id(thing)] = parent
                if kind in _DICTS and not thing:  # a module has a dozen of these
                    self._kept.append(KeptDict(thing))
                else:
                    waiting.append(thing)

    def look_into_items(self, things: Any, parent: Any) -> None:
        """Follow the items of a container, unless there are very many."""
        if len(things) > _MANY:
            things = [thing for thing in things if type(thing) not in PLAIN and gc.is_tracked(thing)]
            if len(things) > _MANY:
                return
        self.look_into(things, parent)

    def keep_dict(self, thing: dict[Any, Any]) -> None:
        """Keep a dictionary, and what it leads to."""
        if len(thing) > _HUGE:
            self._kept.append(Watched(thing, size_mark, "a dictionary of many entries, has others"))
            return
        self._kept.append(KeptDict(thing))
        if thing:
            self.look_into_items(thing.values(), thing)
            self._stand_in(thing, thing.items())

    def keep_list(self, thing: list[Any] | deque[Any]) -> None:
        """Keep a list, and what it leads to."""
        if len(thing) > _HUGE:
            self._kept.append(Watched(thing, size_mark, "a list of many items, has others"))
            return
        self._kept.append(KeptList(thing))
        if thing:
            self.look_into_items(thing, thing)
            if len(thing) <= _MANY:
                self._stand_in(thing, enumerate(thing))

    def _stand_in(self, holder: Any, items: Iterable[tuple[Any, Any]]) -> None:
        for key, value in items:
            kind: Any = type(value)
            if kind not in PLAIN and is_plain_iterator(kind):
                with suppress(TypeError, AttributeError, ValueError):  # it is watched all the same
                    self._iterators.append(StandIn(holder, key, value))

    def keep_set(self, thing: set[Any]) -> None:
        """Keep a set, and what it leads to."""
        self._kept.append(KeptSet(thing))
        self.look_into_items(thing, thing)

    def keep_tensor(self, thing: Tensor, *, whole: bool = False) -> None:
        """Keep a tensor's values, or watch it where it is large, unless it is to be kept whole."""
        if is_lazy(thing):
            return
        if isinstance(thing, nn.Parameter):
            self._kept.append(KeptParameter(thing))
        elif whole or self._may_copy(thing.numel() * thing.element_size()):
            self._kept.append(KeptTensor(thing))
        else:
            self._kept.append(Watched(thing, tensor_mark, "a large tensor, was written to"))

    def keep_array(self, thing: npt.NDArray[Any]) -> None:
        """Keep an array's values, or watch it where it is large."""
        if not thing.flags.writeable:
            return
        if not isinstance(thing, np.memmap) and self._may_copy(thing.nbytes):
            self._kept.append(KeptArray(thing))
            if thing.dtype.hasobject and thing.dtype.fields is None:
                self.look_into_items(thing.ravel().tolist(), thing)
        elif not thing.dtype.hasobject:
            self._kept.append(Watched(thing, array_mark, "a large array, was written to"))

    def _may_copy(self, size: int) -> bool:
        if size > self._each or size > self._left:
            return False
        self._left -= size
        return True

    def keep(self, kept: AbstractKept) -> None:
        """Put back what is kept when the snapshot is restored."""
        self._kept.append(kept)

    def keep_module(self, thing: nn.Module) -> None:
        """Keep a module: its buffers and tensors whole, and its attributes as those of any object."""
        attributes = vars(thing)
        for tensor in (*thing.buffers(recurse=False), *attributes.values()):
            if isinstance(tensor, Tensor) and id(tensor) not in self._from:
                self._from[id(tensor)] = attributes
                self.keep_tensor(tensor, whole=True)
        self.keep_object(thing)

    def keep_object(self, thing: Any) -> None:
        """Keep the attributes of an object, and those of its class."""
        attributes = getattr(thing, "__dict__", None)
        if isinstance(attributes, dict) and id(attributes) not in self._from:
            self._from[id(attributes)] = thing
            self.keep_dict(attributes)
        kind: Any = type(thing)
        names, user_class = _slots(kind)
        if names:
            kept = KeptSlots(thing, names)
            self._kept.append(kept)
            self.look_into(kept.content.values(), thing)
        if user_class is not None:
            self.look_into((user_class,), thing)

    def keep_class(self, thing: type) -> None:
        """Keep what a class outside of installed packages holds, and what its methods use."""
        if not is_users(thing.__module__):
            return
        self._kept.append(KeptClass(thing))
        self.look_into(class_attributes(thing).values(), thing)
        for value in vars(thing).values():
            functions = (value.fget, value.fset) if isinstance(value, property) else (_plain_function(value),)
            self.look_into((f for f in functions if isinstance(f, types.FunctionType)), thing)
        self.look_into((type(thing), *thing.__bases__), thing)

    def keep_function(self, thing: types.FunctionType) -> None:
        """Keep what a function outside of installed packages closes over, and its defaults and globals."""
        if not is_users(thing.__module__):
            return
        if thing.__closure__:
            self.look_into(thing.__closure__, thing)
        self.look_into((thing.__defaults__, thing.__kwdefaults__, thing.__dict__ or None), thing)
        variables = thing.__globals__
        names = [name for name in _names(thing.__code__) if name in variables]
        used = [name for name in names if not isinstance(variables[name], types.ModuleType)]
        if used:
            self._kept.append(KeptGlobals(variables, used))
            self.look_into((variables[name] for name in used if is_state(variables[name])), thing)

    def keep_cell(self, thing: types.CellType) -> None:
        """Keep what a variable of an enclosing function holds."""
        with suppress(ValueError):  # not assigned yet
            read = partial(getattr, thing, "cell_contents")
            self._kept.append(KeptState(thing, read, partial(setattr, thing, "cell_contents")))
            self.look_into((thing.cell_contents,), thing)

    def keep_generator(self, thing: Any) -> None:
        """Watch a function with `yield`, and keep what it holds."""
        self._kept.append(Watched(thing, generator_mark, "a generator, was moved on"))
        if not thing.gi_running:
            self.look_into(gc.get_referents(thing), thing)

    def keep_iterator(self, thing: Iterator[Any]) -> None:
        """Watch one of Python's own iterators, and keep what it holds; where it can be copied, a copy is used up."""
        self._kept.append(Watched(thing, iterator_mark, "an iterator, was moved on"))
        self.look_into(gc.get_referents(thing), thing)

    def keep_file(self, thing: Any) -> None:
        """Keep the place in a file that is read, or watch it."""
        if thing.closed or not thing.readable() or not thing.seekable():
            return
        try:
            self._kept.append(KeptState(thing, thing.tell, partial(_seek, thing)))
        except OSError:  # a text file that is being iterated
            beneath = getattr(thing, "buffer", thing)
            self._kept.append(Watched(thing, lambda _: beneath.tell(), "a file, was read on"))

    def keep_random(self, thing: Any) -> None:
        """Keep the state of a random generator."""
        if isinstance(thing, torch.Generator):
            self._kept.append(KeptState(thing, thing.get_state, thing.set_state))
        elif isinstance(thing, np.random.BitGenerator):
            state = partial(getattr, thing, "state")
            self._kept.append(KeptState(thing, state, partial(setattr, thing, "state")))
            self.look_into((thing.seed_seq,), thing)
        elif isinstance(thing, np.random.Generator):
            self.look_into((thing.bit_generator,), thing)
        elif isinstance(thing, np.random.SeedSequence):
            spawned = attrgetter("n_children_spawned")
            self._kept.append(Watched(thing, spawned, "a seed sequence, was spawned from"))
        elif isinstance(thing, np.random.RandomState):
            self._kept.append(KeptState(thing, thing.get_state, thing.set_state))
        elif not isinstance(thing, random.SystemRandom):
            self._kept.append(KeptState(thing, thing.getstate, thing.setstate))

    def _path(self, thing: Any) -> str:
        names: list[str] = []
        parents = {id(kept.thing): kept for kept in self._kept}
        while thing is not self._root and thing is not None:
            parent = self._from.get(id(thing))
            kept = parents.get(id(parent))
            content = kept.content if isinstance(kept, KeptDict | KeptSlots | KeptClass | KeptGlobals) else {}
            key = next((key for key, value in content.items() if value is thing), None)
            if isinstance(parent, types.FunctionType):
                names.append(getattr(thing, "__name__", f"a variable of {parent.__name__}"))
                break
            if key is not None and key not in ("_modules", "_parameters", "_buffers"):
                names.append(str(key))
            thing = parent
        return ".".join([self._name, *reversed(names)])


def put_back(snapshot: Snapshot) -> None:
    """Restore a snapshot, and warn of what cannot be put back."""
    if failed := snapshot.restore():
        warnings.warn(
            f"Probing has changed what it cannot put back: {listed(failed, 5, '; ')}. Training may differ from "
            "training without probing. Keep such state in plain values, small tensors or arrays, or random generators "
            "that an attribute leads to, or give probing data and a network of its own.",
            stacklevel=1,
        )


def _seek(file: Any, place: int) -> None:
    if file.closed:
        return
    with suppress(OSError):  # a text file that has been iterated
        if file.tell() == place:
            return
    file.seek(place)


def _plain_function(value: Any) -> Any:
    value = getattr(value, "__func__", value)
    value = getattr(value, "func", value)  # cached_property
    return getattr(value, "__wrapped__", value) if not isinstance(value, types.FunctionType) else value


@lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """List the names that a function's code, and the functions inside it, look up."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return tuple(dict.fromkeys([*code.co_names, *(name for names in inner for name in names)]))


@cache
def _slots(kind: Any) -> tuple[list[str], type | None]:
    """List an object's attributes that are in no dictionary, and its class if it is a user's."""
    own = ((base, name) for base in kind.__mro__ for name in own_slots(base))
    names = [name for base, name in own if isinstance(vars(base).get(name), types.MemberDescriptorType)]
    return names, kind if is_users(kind.__module__) else None


def _and_object(keep: Callable[[Snapshot, Any], None], kind: type, *exact: type) -> Keep:
    """Have what a class that builds on a container keeps besides be kept too."""
    if kind in exact:
        return keep

    def both(snapshot: Snapshot, thing: Any) -> None:
        keep(snapshot, thing)
        Snapshot.keep_object(snapshot, thing)

    return both


def _keep_extension(snapshot: Snapshot, thing: Any) -> None:
    """Keep an object of an extension that shows what it holds to the garbage collector alone."""
    snapshot.keep(Watched(thing, held_mark, f"a {type(thing).__name__}, holds other objects"))
    snapshot.look_into(gc.get_referents(thing), thing)


def _keep_bound(snapshot: Snapshot, thing: Any) -> None:
    """Keep the object that a method is bound to, of Python's or of an extension's."""
    owner = getattr(thing, "__self__", None)
    if not isinstance(owner, type):
        snapshot.look_into((owner, getattr(thing, "__func__", None)), thing)


def _keep_partial(snapshot: Snapshot, thing: Any) -> None:
    snapshot.look_into((thing.func, *thing.args, *thing.keywords.values()), thing)


def _seed_generator(thing: Any, seed: int) -> None:
    if isinstance(thing, torch.Generator):
        thing.manual_seed(seed)
    elif isinstance(thing, np.random.BitGenerator):
        thing.state = type(thing)(seed).state
    elif isinstance(thing, np.random.RandomState | random.Random):
        thing.seed(seed % 2**32)


@cache
def _how(kind: Any) -> Keep | None:
    """Choose how objects of a class are kept; None for those that cannot change or are no part of this."""
    if issubclass(kind, ATOMS):
        return None
    if issubclass(kind, nn.Module):
        return Snapshot.keep_module
    if issubclass(kind, Tensor):
        return Snapshot.keep_tensor
    if issubclass(kind, np.ndarray):
        return Snapshot.keep_array
    if issubclass(kind, RANDOM):
        return Snapshot.keep_random
    if issubclass(kind, types.GeneratorType):
        return Snapshot.keep_generator
    if issubclass(kind, type):
        return Snapshot.keep_class
    if issubclass(kind, types.FunctionType):
        return Snapshot.keep_function
    if issubclass(kind, types.MethodType | types.BuiltinMethodType | types.MethodWrapperType):
        return _keep_bound
    if kind.__name__ == "cython_function_or_method":
        return _keep_bound
    if issubclass(kind, types.CellType):
        return Snapshot.keep_cell
    if kind is type(_names):  # an `lru_cache`: what it holds is right whoever has asked first
        return lambda snapshot, thing: snapshot.look_into((thing.__wrapped__,), thing)
    if issubclass(kind, partial):
        return _and_object(_keep_partial, kind, partial)
    if is_plain_iterator(kind):
        return Snapshot.keep_iterator
    if is_outside(kind):
        return None
    if issubclass(kind, dict):
        return _and_object(Snapshot.keep_dict, kind, dict)
    if issubclass(kind, list | deque):
        return _and_object(Snapshot.keep_list, kind, list, deque)
    if issubclass(kind, set):
        return _and_object(Snapshot.keep_set, kind, set)
    if issubclass(kind, tuple | frozenset):
        return _and_object(lambda snapshot, thing: snapshot.look_into_items(thing, thing), kind, tuple, frozenset)
    if issubclass(kind, bytearray | array):
        return _and_object(lambda snapshot, thing: snapshot.keep(KeptBytes(thing)), kind, bytearray, array)
    if issubclass(kind, io.IOBase):
        return Snapshot.keep_file
    if kind.__module__.startswith(("pandas._libs.internals", "pandas.core.internals")):  # the columns of a frame
        return _keep_extension
    return None if kind.__module__ == "builtins" else Snapshot.keep_object
