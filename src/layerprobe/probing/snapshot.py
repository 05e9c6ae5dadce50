"""Everything about a network that a forward pass could change, but for the values of its parameters."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

_INTEGER_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


_CONTAINERS = (dict, list, set, deque)


class Snapshot:
    """A network's buffers, flags, attributes and hooks at one moment.

    Parameters are held but not copied: that would double a large network.
    """

    def __init__(self, network: nn.Module) -> None:
        modules = list(network.modules())
        self._flags = [(module, module.training) for module in modules]
        self._attributes = [(module, _attributes(module)) for module in modules]
        self._gradients = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
        owned = [tensor for module in modules for tensor in (*module._buffers.values(), *vars(module).values())]
        tensors = {id(tensor): tensor for tensor in owned if isinstance(tensor, Tensor)}
        self._values = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]

    def restore(self) -> None:
        """Put everything back where it changed; one failure does not keep the rest from being restored."""
        with ExitStack() as stack:
            for restore, kept in self._in_order():
                stack.callback(_restore_each, restore, kept)

    def _in_order(self) -> list[tuple[Callable[[Any, Any], None], list[Any]]]:
        return [
            (_restore_value, self._values),
            (_restore_requires_grad, self._gradients),
            (_restore_training, self._flags),
            (_restore_attributes, self._attributes),
        ]


def _restore_each(restore: Callable[[Any, Any], None], kept: list[tuple[Any, Any]]) -> None:
    for thing, before in kept:
        restore(thing, before)


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Every attribute with what it is and, for a plain container (hooks, buffers, a list of states), what is in it."""
    contents = {name: value for name, value in vars(module).items() if isinstance(value, _CONTAINERS) and value}
    return {name: (value, _copy(contents[name]) if name in contents else ()) for name, value in vars(module).items()}


def _copy(container: Any) -> Any:
    if isinstance(container, dict):
        return dict(container)
    return set(container) if isinstance(container, set) else list(container)


def _restore_attributes(module: nn.Module, before: dict[str, tuple[Any, Any]]) -> None:
    now = vars(module)
    for name in now.keys() - before.keys():
        del now[name]
    for name, (value, content) in before.items():
        if name not in now or now[name] is not value:
            now[name] = value
        if isinstance(value, _CONTAINERS) and (value or content):
            _restore_content(value, content)


def _restore_content(value: Any, content: Any) -> None:
    if isinstance(value, dict):
        same = list(value) == list(content) and all(value[key] is content[key] for key in content)
    elif isinstance(value, set):
        same = value == set(content)
    else:
        same = len(value) == len(content) and all(a is b for a, b in zip(value, content, strict=True))
    if same:
        return
    value.clear()
    if isinstance(value, dict | set):
        value.update(content)
    else:
        value.extend(content)


def _restore_training(module: nn.Module, before: bool) -> None:
    if module.training != before:
        module.training = before


def _restore_requires_grad(parameter: Tensor, before: bool) -> None:
    if parameter.requires_grad != before:
        parameter.requires_grad_(before)


def _restore_value(tensor: Tensor, before: Tensor) -> None:
    # Writing only where something changed: a write tells autograd that a tensor it saved is no longer valid.
    if not _same_bits(tensor, before):
        with torch.no_grad():
            if tensor.shape != before.shape:
                tensor.resize_(before.shape)
            tensor.copy_(before)


def _same_bits(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if left.layout is not torch.strided or left.is_complex() or left.element_size() not in _INTEGER_OF_SIZE:
        return torch.equal(left, right)
    integer = _INTEGER_OF_SIZE[left.element_size()]
    return torch.equal(left.detach().view(integer), right.view(integer))
