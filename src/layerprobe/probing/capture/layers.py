"""Layers of a network: the intermediate tensors of a forward pass, with name, order, depth and kind."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from layerprobe.probing.capture.batch_axis import BatchAxis
from layerprobe.probing.capture.hooks import INPUT, Site
from layerprobe.types import LayerName


@dataclass(frozen=True)
class Tap:
    """Where one tensor is found in a forward pass, and how its samples lie in it.

    Attributes:
        site: Where it appears.
        kind: Class of the module, name of the function, or `input`.
        shape: Shape of one sample.
        rows: The axis that runs over samples.
        channel_axis: Which axis of one sample the network treats as channels; None where nothing says so, or where
            there are not several.
    """

    site: Site
    kind: str
    shape: tuple[int, ...]
    rows: BatchAxis
    channel_axis: int | None = None


@dataclass(frozen=True)
class Layer:
    """An intermediate tensor of the forward pass.

    Attributes:
        name: Path of the module that made it, with `#1`, `#2`, … when called again; `module.function` for a functional
            operation; `input`, or `input.<key or index>` where there are several.
        depth: 0 for the input, then the order of execution among the layers of this granularity; `include` and
            `exclude` do not change it.
        kind: The module's class, the function's name, or `input`.
        shape: Shape of one sample, without the batch axis.
        aliases: Names of later tensors with the same values, perhaps in another shape: dropout in eval mode, flatten,
            a container that returns its child's output.
        taps: Where the layer is found (first), and its aliases (after it, in their order).
        alone: Whether it is read from one sample at a time, because the network reorders a batch by its data.
    """

    name: LayerName
    depth: int
    kind: str
    shape: tuple[int, ...]
    aliases: tuple[LayerName, ...]
    taps: tuple[Tap, ...]
    alone: bool = False

    @property
    def names(self) -> tuple[LayerName, ...]:
        """The layer's name and its aliases."""
        return (self.name, *self.aliases)

    @property
    def site(self) -> Site:
        """Where the layer is found."""
        return self.taps[0].site

    @property
    def rows(self) -> BatchAxis:
        """How the samples lie in it."""
        return self.taps[0].rows

    @property
    def channel_axis(self) -> int | None:
        """Which axis of one sample the network treats as channels; None where that is not known."""
        return self.taps[0].channel_axis

    def under(self, name: LayerName) -> Layer:
        """Return the same layer shown under one of its names, with the shape that it has there."""
        taps = dict(zip(self.names, self.taps, strict=True))
        tap = taps.pop(name)
        return Layer(name, self.depth, tap.kind, tap.shape, tuple(taps), (tap, *taps.values()), self.alone)


def first_names(chosen: Sequence[Sequence[Layer]]) -> tuple[Layer, ...]:
    """Return each of the layers that were chosen, under the first of its names."""
    return tuple(under[0] for under in chosen)


def in_order(groups: Iterable[Sequence[tuple[LayerName, Tap]]], alone: Container[Site]) -> tuple[Layer, ...]:
    """Make layers of the names and places of tensors with the same values.

    Args:
        groups: A layer and its aliases each, in order of execution.
        alone: Sites that are read from one sample at a time.
    """
    layers = []
    depth = 0
    for group in groups:
        names, taps = zip(*group, strict=True)
        depth += taps[0].site.function != INPUT
        layers.append(
            Layer(
                name=names[0],
                depth=0 if taps[0].site.function == INPUT else depth,
                kind=taps[0].kind,
                shape=taps[0].shape,
                aliases=names[1:],
                taps=taps,
                alone=any(tap.site in alone for tap in taps),
            )
        )
    return tuple(layers)
