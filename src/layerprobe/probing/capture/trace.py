"""Trace of one forward pass: each tensor with its place, and which of them are the same value."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn

from layerprobe.probing.capture.aliasing import Identities, Key, ignores_data, source
from layerprobe.probing.capture.call_arguments import Arguments
from layerprobe.probing.capture.channel_axes import ChannelEvidence, Node
from layerprobe.probing.capture.default_device import own_device
from layerprobe.probing.capture.hooks import INPUT, AbstractObserver, Call, Hooks, Site, module_at
from layerprobe.probing.capture.pytree import named_tensors, packed_sequences, tensors


@dataclass(eq=False)
class Occurrence:
    """A tensor appearing in a forward pass.

    Attributes:
        site: Where.
        value: Number of the value that it holds; tensors with the same number hold the same elements.
        shape: Its shape, batch axis included.
        dtype: Its type.
        order: Its place in time.
        call: The module's call that it is the output of, or in which the function was called; None for the input.
    """

    site: Site
    value: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    order: int
    call: Call | None


@dataclass(frozen=True)
class Trace:
    """One forward pass.

    Attributes:
        occurrences: Every tensor that may depend on the input, in order of time.
        objects: Calls of modules that return something in which no tensor is found, and its type.
        called: Paths of the modules that were called.
        root: The call in which names begin: the network's own, or that of the only module that it does nothing but
            hand its input to and whose output it returns.
        channel_axes: Which axis of a tensor the network treats as channels, the axis over samples counted, by where
            it appears; absent where nothing says so.
        exchanges: What each call of a module was given and returned, in the order in which they ended.
        sums: Additions of two tensors.
        packed: Numbers of the values that packed sequences hold, and whether their samples are of several lengths.
    """

    occurrences: tuple[Occurrence, ...]
    objects: tuple[tuple[Occurrence, str], ...]
    called: Collection[str]
    root: Call
    channel_axes: Mapping[Site, int]
    exchanges: tuple[Exchange, ...]
    sums: tuple[Sum, ...]
    packed: Mapping[int, bool]


@dataclass(frozen=True)
class Exchange:
    """What a module's call was given and what it returned: values with their shapes.

    Each tensor is the number of its value and its shape; `order` says when it ended, among the occurrences.
    """

    call: Call
    given: list[tuple[int, tuple[int, ...]]]
    returned: list[tuple[int, tuple[int, ...]]]
    order: int


@dataclass(frozen=True)
class Sum:
    """An addition.

    Operands and their sum are numbers of values, `order` is among the occurrences.
    """

    call: Call
    operands: tuple[int, ...]
    value: int
    shape: tuple[int, ...]
    order: int


def trace(hooks: Hooks, arguments: Arguments, on_tensor: Callable[[Site, Tensor], None] | None = None) -> Trace:
    """Run one forward pass and note every tensor.

    Args:
        hooks: The network's hooks. Inference mode must be off: the identity of tensors rests on their version counters.
        arguments: What the network is called with, on its device.
        on_tensor: Gets each tensor when it appears.
    """
    tracer = _Tracer(hooks.network, on_tensor)
    tracer.begin(arguments)
    hooks.run(arguments, tracer, functions=True)
    called = {exchange.call.module for exchange in tracer.exchanges}
    root, axes = tracer.root(hooks.network), tracer.channel_axes()
    return Trace(
        tuple(tracer.occurrences),
        tuple(tracer.objects),
        called,
        root,
        axes,
        tuple(tracer.exchanges),
        tuple(tracer.sums),
        tracer.packed,
    )


_ADDITIONS = ("add", "iadd", "radd", "add_")


class _Tracer(AbstractObserver):
    def __init__(self, network: nn.Module, on_tensor: Callable[[Site, Tensor], None] | None) -> None:
        self.occurrences: list[Occurrence] = []
        self.objects: list[tuple[Occurrence, str]] = []
        self.on_tensor = on_tensor
        self.identities = Identities()
        self.numbers = count()
        self.values: dict[Key, int] = {}
        weights = chain(network.parameters(), network.buffers())
        self.constants: set[Key | None] = {self.identities.key(tensor) for tensor in weights}
        self.given: dict[Call, list[tuple[int, tuple[int, ...]]]] = {}
        self.exchanges: list[Exchange] = []
        self.sums: list[Sum] = []
        self.packed: dict[int, bool] = {}
        self.channels = ChannelEvidence(self.identities, self._is_constant)
        self.nodes: dict[Site, Node | None] = {}

    def begin(self, arguments: Arguments) -> None:
        for path, tensor in arguments.named():
            self._note(Site("", function=INPUT, output=path), tensor, self._value(tensor), None)

    def enter(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        self.given[call] = self._describe((args, kwargs))
        self._note_packed((args, kwargs))
        return True

    def leave(self, call: Call, output: object) -> None:
        self.exchanges.append(Exchange(call, self.given.pop(call), self._describe(output), len(self.occurrences)))
        self._note_packed(output)
        found = named_tensors(output)
        if not found and output is not None:
            here = Occurrence(Site(call.module, call.index), -1, (), torch.bool, len(self.occurrences), call)
            self.objects.append((here, type(output).__name__))
        for path, tensor in found:
            if not self._is_constant(tensor):
                self._note(Site(call.module, call.index, output=path), tensor, self._value(tensor), call)

    def before(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        given = [*tensors(args), *tensors(kwargs)]
        constant = ignores_data(name) or (bool(given) and all(self._is_constant(tensor) for tensor in given))
        handed_on = None if constant else source(name, args, kwargs)
        of_channels = None if constant else self.channels.before(name, args, kwargs)
        added = tuple(map(self._value, given)) if name in _ADDITIONS and not constant else ()
        return constant, None if handed_on is None else (self._value(handed_on), handed_on.numel()), of_channels, added

    def after(self, call: Call, name: str, index: int, given: Any, result: object) -> None:
        constant, handed_on, of_channels, added = given
        if of_channels is not None:
            self.channels.after(name, of_channels, result)
        for path, tensor in named_tensors(result):
            key = self.identities.key(tensor)
            if constant:
                self.constants.add(key)
                continue
            if handed_on is not None and tensor.numel() == handed_on[1]:
                value = handed_on[0]
                if key is not None:
                    self.values[key] = value
            else:
                value = self._value(tensor)
            self._note(Site(call.module, call.index, name, index, path), tensor, value, call)
            if len(added) == 2:
                self.sums.append(Sum(call, added, value, tuple(tensor.shape), len(self.occurrences)))

    def channel_axes(self) -> dict[Site, int]:
        """Return the channel axis of what appears at each site, where it is known."""
        axes = self.channels.axes()
        return {site: axes[node] for site, node in self.nodes.items() if node in axes}

    def root(self, network: nn.Module) -> Call:
        """Return the call in which names begin."""
        own = next((exchange for exchange in self.exchanges if exchange.call.parent is None), None)
        if own is None or own.call.module:  # its class replaces `__call__`, so that no hook saw it
            return Call("", 0, None)
        while True:
            inner = [exchange for exchange in self.exchanges if exchange.call.parent is own.call]
            if isinstance(network, nn.Sequential | nn.ModuleList | nn.ModuleDict) or len(inner) != 1:
                return own.call
            (child,) = inner
            module = module_at(network, child.call.module.removeprefix(own.call.module).lstrip("."))
            hands_on = child.given == own.given and child.returned == own.returned
            if not (hands_on and own.given and own.returned and any(module.children())):
                return own.call
            own, network = child, module

    def _note(self, site: Site, tensor: Tensor, value: int, call: Call | None) -> None:
        shape = tuple(tensor.shape)
        self.occurrences.append(Occurrence(site, value, shape, tensor.dtype, len(self.occurrences), call))
        self.nodes[site] = self.channels.node(tensor)
        if self.on_tensor is not None:
            with own_device():
                self.on_tensor(site, tensor.detach())

    def _value(self, tensor: Tensor) -> int:
        key = self.identities.key(tensor)
        if key is None:
            return next(self.numbers)
        if key not in self.values:
            self.values[key] = next(self.numbers)
        return self.values[key]

    def _is_constant(self, tensor: Tensor) -> bool:
        key = self.identities.key(tensor)
        return key is not None and key in self.constants

    def _note_packed(self, value: object) -> None:
        for packed in packed_sequences(value):
            self.packed[self._value(packed.data)] = bool(packed.batch_sizes[0] != packed.batch_sizes[-1])

    def _describe(self, value: object) -> list[tuple[int, tuple[int, ...]]]:
        return [(self._value(tensor), tuple(tensor.shape)) for tensor in tensors(value)]
