"""Replacement of a layer in the forward pass, for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from layerprobe.probing.capture.hooks import INPUT, module_at, unwrap
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.capture.pytree import map_tensors, named_tensors

Change: TypeAlias = Callable[[Tensor, Mapping[str, Any]], Tensor]
"""Makes another tensor of a layer's, and of the keyword arguments that the network was called with."""


@contextmanager
def replaced(network: nn.Module, layer: Layer, change: Change) -> Iterator[None]:
    """Let a layer be another tensor in every forward pass; afterwards the network is as it was.

    Raises:
        ValueError: The layer is the result of a function, or its samples are not along the first axis.
    """
    site, inner = layer.site, unwrap(network)
    if site.function not in ("", INPUT) or (site.function == INPUT and site.module):
        raise ValueError(f"the layer {layer.name!r} is the result of a function, and only modules' can be replaced")
    if layer.rows.axis or layer.rows.fold > 1 or layer.alone:
        raise ValueError(f"the samples of the layer {layer.name!r} do not lie along its first axis")
    calls, given = [0], [dict[str, Any]()]

    def new(holder: Any) -> Any:
        found = dict(named_tensors(holder))
        old = found.get(site.output) if site.output else next(iter(found.values()), None)
        if old is None:
            raise ValueError(f"the layer {layer.name!r} is not found where it was")
        made = _changed(old, layer.rows.part, change, given[0])
        return map_tensors(holder, lambda tensor: made if tensor is old else tensor)

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        calls[0], given[0] = 0, kwargs
        if site.function == INPUT:
            return new(args) if args else args, kwargs if args else new(kwargs)
        return None

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        calls[0] += 1
        return new(output) if calls[0] == site.call + 1 else None

    with ExitStack() as hooks:
        hooks.callback(inner.register_forward_pre_hook(begin, with_kwargs=True).remove)
        if site.function != INPUT:
            hooks.callback(module_at(inner, site.module).register_forward_hook(leave).remove)
        yield


def _changed(old: Tensor, part: tuple[int, int] | None, change: Change, given: Mapping[str, Any]) -> Tensor:
    """Return what a tensor becomes: changed as a whole, or in the part of its last axis that is the layer."""
    if part is None:
        return change(old, given)
    start, end = part
    return torch.cat([old[..., :start], change(old[..., start:end], given), old[..., end:]], dim=-1)
