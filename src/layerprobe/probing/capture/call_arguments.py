"""Inputs of a network: a tensor, positional arguments, or keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from layerprobe.probing.capture.pytree import TensorPath, is_plain, leaves, map_tensors, named_tensors

NetworkInputs: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | Any
"""A tensor, positional arguments (`network(*inputs)`) or keyword arguments (`network(**inputs)`); any other object that
holds tensors, such as a dataclass, is the only argument (`network(inputs)`). The batch axis comes first."""

_AS_TENSOR = ": of an array, inputs=lambda batch: torch.as_tensor(batch[0])"


def check_dense(tensor: Tensor) -> None:
    """Refuse a sparse tensor, which cannot be cut into samples.

    Raises:
        TypeError: Naming its layout.
    """
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"the network's inputs hold a sparse tensor ({tensor.layout}), whose samples cannot be cut along axis 0. "
            "Give it as `.to_dense()`; a network that works on sparse tensors can make each batch sparse by itself."
        )


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call of a network.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        batch_size: Size of the first axis of the first tensor; the tensors that share it hold a batch.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch_size: int

    @classmethod
    def of(cls, inputs: NetworkInputs) -> Arguments:
        """Read the arguments from what a user gives.

        Raises:
            TypeError: The inputs are nothing that a network can be called with, or hold data in something that cannot
                be looked into.
            ValueError: There is no tensor with a batch axis, or the batch is empty.
        """
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if isinstance(inputs, Tensor):
            args = (inputs,)
        elif isinstance(inputs, Mapping):
            kwargs = dict(inputs)
        elif isinstance(inputs, tuple | list):
            args = tuple(inputs)
        elif named_tensors(inputs, state=True):
            args = (inputs,)
        else:
            raise TypeError(
                f"the network's inputs are a {type(inputs).__name__}, which it cannot be called with. Give a tensor, "
                "a tuple or list of positional arguments, a mapping of keyword arguments, or an object that holds "
                f"tensors{_AS_TENSOR if hasattr(inputs, '__array__') else ''}."
            )
        found = list(leaves((args, kwargs)))
        for path, part in found:
            if is_plain(part):
                continue
            raise TypeError(
                f"the network's inputs hold a {type(part).__name__} at {'.'.join(path[1:])!r}, which cannot be looked "
                "into: its samples can be neither chosen nor copied. Give tensors instead, also inside tuples, lists, "
                "mappings, dataclasses or other objects with attributes, or leave it out with `inputs`."
            )
        tensors = [part for _, part in found if isinstance(part, Tensor)]
        if any(tensor.is_nested for tensor in tensors):
            raise ValueError(
                "the network's inputs hold a jagged (nested) tensor, whose samples cannot be cut along axis 0. "
                "Pass what can be with `inputs`: `torch.nested.to_padded_tensor(batch, 0.0)`, with a mask of padding."
            )
        sizes = [tensor.shape[0] for tensor in tensors if tensor.ndim]
        if not sizes:
            raise ValueError(
                "the network's inputs hold no tensor with a batch axis. "
                "Give at least one tensor whose first axis runs over samples."
            )
        if sizes[0] == 0:
            raise ValueError("the network's inputs are an empty batch. Give at least one sample.")
        for tensor in tensors:
            if tensor.ndim and tensor.shape[0] == sizes[0]:
                check_dense(tensor)
        return cls(args, kwargs, sizes[0])

    def take(self, rows: Sequence[int]) -> Arguments:
        """Return the same call on copies of some of its samples."""

        def picked(tensor: Tensor) -> Tensor:
            if not self.holds_batch(tensor):
                return tensor.detach().clone()
            return tensor.detach().index_select(0, torch.tensor(rows, device=tensor.device))

        args, kwargs = map_tensors((self.args, self.kwargs), picked)
        return Arguments(args, kwargs, len(rows))

    def copy_to(self, device: torch.device | None) -> Arguments:
        """Copy the call to a device: a network that works in place on its input leaves the given one."""

        def copied(tensor: Tensor) -> Tensor:
            moved = tensor.detach() if device is None else tensor.detach().to(device)
            return moved.clone() if moved.device == tensor.device else moved

        args, kwargs = map_tensors((self.args, self.kwargs), copied)
        return Arguments(args, kwargs, self.batch_size)

    def to_precision(self, dtype: torch.dtype) -> Arguments:
        """Return the same call with tensors of real numbers in another precision."""
        args, kwargs = map_tensors((self.args, self.kwargs), lambda t: t.to(dtype) if t.is_floating_point() else t)
        return Arguments(args, kwargs, self.batch_size)

    def named(self) -> list[tuple[TensorPath, Tensor]]:
        """Return every tensor with its key or index; the path is `()` if there is one tensor only."""
        positional = {str(index): value for index, value in enumerate(self.args)}
        return named_tensors({**positional, **self.kwargs}, state=True)

    def holds_batch(self, tensor: Tensor) -> bool:
        """Tell whether the first axis of one of the tensors runs over samples."""
        return tensor.ndim > 0 and tensor.shape[0] == self.batch_size


def check_network(network: object) -> None:
    """Refuse what is no network.

    Raises:
        TypeError: It is a class, a file's name, a state dict or another object.
    """
    if not isinstance(network, nn.Module):
        found = f"the class {network.__name__}" if isinstance(network, type) else f"a {type(network).__name__}"
        raise TypeError(
            f"the network is {found}, expected an object of torch.nn.Module. Build it from its class, and load its "
            "weights (load_state_dict); a file alone: scripts/probe.py checkpoint=FILE."
        )


def device_of(network: nn.Module) -> torch.device | None:
    """Return where the network's first parameter or buffer is; None if it has neither.

    Those on the meta device are passed over while there are others: their values are kept elsewhere until needed.
    """
    devices = [tensor.device for tensor in chain(network.parameters(), network.buffers())]
    return next((device for device in devices if device.type != "meta"), devices[0] if devices else None)


def autocast_kind(device: torch.device | None) -> str:
    """Return the kind of device whose autocast a network there would run in."""
    kind = "cpu" if device is None else device.type
    return kind if torch.amp.is_autocast_available(kind) else "cpu"


def autocast_of(device: torch.device | None) -> str | None:
    """Return the number format of torch's autocast that is on, such as `bfloat16`; None where it is off."""
    kind = autocast_kind(device)
    on = torch.is_autocast_enabled(kind)
    return str(torch.get_autocast_dtype(kind)).removeprefix("torch.") if on else None


def floating_dtype(network: nn.Module) -> torch.dtype:
    """Return the precision in which a network computes: that of its first parameter of real numbers, or float32."""
    check_network(network)
    floating = (parameter.dtype for parameter in network.parameters() if parameter.is_floating_point())
    return next(floating, torch.float32)
