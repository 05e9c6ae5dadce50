"""Names of the tensors of a forward pass, and which of them are outputs of modules."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from layerprobe.compat.torch import COMPILED
from layerprobe.probing.capture.hooks import INPUT, Call, callers
from layerprobe.probing.capture.trace import Occurrence, Trace
from layerprobe.types import LayerName


@dataclass(frozen=True)
class Candidate:
    """A tensor of a forward pass that a layer may be made of.

    Attributes:
        occurrence: Where it appears.
        order: Its place in time. A module's output has that of the operation inside that made it.
        of_module: Whether it is the input, a module's output, or the operation that makes the network's output.
    """

    occurrence: Occurrence
    order: int
    of_module: bool


def candidates(found: Trace) -> list[Candidate]:
    """Drop what has a better name, and sort by time.

    An operation whose result its module returns is named by the module. The network's own output is named by whatever
    made it, and by the network only if nothing was seen to make it.
    """
    values: dict[int, list[Candidate]] = defaultdict(list)
    for occurrence in found.occurrences:
        of_module = not occurrence.site.function or occurrence.site.function == INPUT
        values[occurrence.value].append(Candidate(occurrence, occurrence.order, of_module))
    outer = list(callers(found.root))
    kept = [candidate for value in values.values() for candidate in _named_by_network(_by_module(value, outer), outer)]
    return sorted(kept, key=lambda candidate: candidate.order)


def _by_module(value: list[Candidate], outer: list[Call]) -> list[Candidate]:
    kept = list(value)
    for candidate in value:
        call = candidate.occurrence.call
        if candidate.occurrence.site.function or call in outer:
            continue
        inside = [
            other
            for other in kept
            if other.occurrence.site.function and other.occurrence.call is call and other.order < candidate.order
        ]
        if inside:
            kept = [other for other in kept if other not in inside and other is not candidate]
            kept.append(replace(candidate, order=min(other.order for other in inside)))
    return kept


def _named_by_network(value: list[Candidate], outer: list[Call]) -> list[Candidate]:
    returned = [one for one in value if not one.occurrence.site.function and one.occurrence.call in outer]
    if not returned:
        return value
    others = [one for one in value if one not in returned]
    if not others:
        return returned[:1]
    own = [one for one in others if one.occurrence.call is outer[0]]
    if own and not any(one.of_module for one in others):
        others[others.index(own[0])] = replace(own[0], of_module=True)
    return others


class Names:
    """Gives each tensor its name: numbers of operations count those that were named before."""

    def __init__(self, network: nn.Module, root: Call) -> None:
        self._prefix = root.module
        self._classes = {path: type(module).__name__ for path, module in network.named_modules()}
        self._modules = {self._path(path) for path in self._classes} - {""}
        self._events: dict[tuple[str, int, str, int], str] = {}
        self._numbers: Counter[str] = Counter()
        self._taken: set[str] = set()

    def name_all(self, these: Iterable[Occurrence]) -> dict[Occurrence, LayerName]:
        """Name tensors in the order given; every name is unique."""
        named = {}
        for occurrence in these:
            named[occurrence] = name = self._free(".".join((self._event(occurrence), *occurrence.site.output)))
            self._taken.add(name)
        return named

    def of_module(self, path: str) -> LayerName:
        """Name what a module returns when it is called first."""
        return self._path(path) or "output"

    def kind(self, occurrence: Occurrence) -> str:
        """Name the class of the module or the function, or `input`."""
        site = occurrence.site
        return site.function or self._classes[site.module]

    def _event(self, occurrence: Occurrence) -> str:
        site = occurrence.site
        if site.function == INPUT:
            return INPUT
        place = self._path(site.module)
        if not site.function:
            return (place or "output") + (f"#{site.call}" if site.call and place else "")
        event = (site.module, site.call, site.function, site.index)
        if event not in self._events:
            base = f"{place}.{site.function}".lstrip(".")
            if base in self._modules:
                self._numbers[base] = max(self._numbers[base], 1)
            number = self._numbers[base]
            self._numbers[base] += 1
            self._events[event] = f"{base}#{number}" if number else base
        return self._events[event]

    def _free(self, name: str) -> str:
        number, free = 0, name
        while free in self._taken:
            number += 1
            free = f"{name}#{number}"
        return free

    def _path(self, path: str) -> str:
        if path == self._prefix:
            return ""
        inner = path.removeprefix(f"{self._prefix}.") if self._prefix else path
        return ".".join(part for part in inner.split(".") if part != COMPILED)
