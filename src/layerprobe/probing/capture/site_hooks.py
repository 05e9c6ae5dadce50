"""Hand out the tensors at chosen sites of one forward pass, each at the moment it is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from layerprobe.probing.capture.hooks import INPUT, AbstractObserver, Call, Site, watch
from layerprobe.probing.capture.inputs import Arguments
from layerprobe.probing.capture.pytree import named_tensors

Ways: TypeAlias = Mapping[tuple[str, int], Mapping[str, int]]
"""The way that a pass took through calls of modules, as counts of functions."""


def visit(
    network: nn.Module, arguments: Arguments, sites: Collection[Site], on_tensor: Callable[[Site, Tensor], None]
) -> Ways:
    """Run one forward pass and hand out the tensors at the sites that it reaches.

    Args:
        network: The network, without wrappers, on the arguments' device.
        arguments: What it is called with.
        sites: Where to look. Functions cost more than modules, and only their own modules pay for them.
        on_tensor: Gets each tensor when it is made; it copies what it wants to keep, since the network may
            overwrite the tensor right afterwards.

    Returns:
        How often each function was called in the calls of modules whose functions were asked for: where these numbers
        differ from those of another pass, a function's number in it may mean another one.
    """
    for path, tensor in arguments.named():
        site = Site("", function=INPUT, output=path)
        if site in sites:
            on_tensor(site, tensor)
    visitor = _Visitor(frozenset(site for site in sites if site.function != INPUT), on_tensor)
    functions = bool(visitor.functions)
    modules = None if functions else {module for module, _ in visitor.modules}
    with watch(network, visitor, functions=functions, modules=modules):
        network(*arguments.args, **arguments.kwargs)
    return visitor.ways


def same_way(site: Site, one: Ways, other: Ways) -> bool:
    """Whether a site means the same function in two passes; a module's output always does."""
    place = (site.module, site.call)
    return not site.function or one.get(place) == other.get(place)


class _Visitor(AbstractObserver):
    def __init__(self, sites: frozenset[Site], on_tensor: Callable[[Site, Tensor], None]) -> None:
        self.sites = sites
        self.on_tensor = on_tensor
        self.ways: dict[tuple[str, int], Counter[str]] = {}
        self.modules = {(site.module, site.call) for site in sites if not site.function}
        self.functions: dict[tuple[str, int], set[tuple[str, int]]] = {}
        for site in sites:
            if site.function:
                self.functions.setdefault((site.module, site.call), set()).add((site.function, site.index))

    def enter(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        return (call.module, call.index) in self.functions

    def leave(self, call: Call, output: object) -> None:
        if call.watched:
            self.ways[call.module, call.index] = call.functions
        if (call.module, call.index) in self.modules:
            self._hand_out(Site(call.module, call.index), output)

    def before(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        return None

    def after(self, call: Call, name: str, index: int, given: object, result: object) -> None:
        if (name, index) in self.functions[call.module, call.index]:
            self._hand_out(Site(call.module, call.index, name, index), result)

    def _hand_out(self, place: Site, value: object) -> None:
        for path, tensor in named_tensors(value):
            site = Site(place.module, place.call, place.function, place.index, path)
            if site in self.sites:
                self.on_tensor(site, tensor.detach())  # some networks turn gradients on
