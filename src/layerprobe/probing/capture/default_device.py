"""Torch's default device: own tensors are made on the CPU, and the program's networks and data by its own default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

import torch

from layerprobe.compat.torch import default_device

_programs: ContextVar[torch.device | None] = ContextVar("programs", default=None)
"""The default of the program, where own code runs under another one."""


@contextmanager
def own_device() -> Iterator[None]:
    """Make tensors on the CPU inside, whatever device `torch.set_default_device` or `with torch.device` has set.

    The network's forward passes and the reading of data are within `programs_device`.
    """
    device = torch.get_default_device()
    if device.type == "cpu":
        yield
        return
    outer = _programs.set(device)
    try:
        with torch.device("cpu"):
            yield
    finally:
        _programs.reset(outer)


@contextmanager
def programs_device() -> Iterator[None]:
    """Make tensors inside where the program makes them: its default device as `own_device` found it.

    One that is set inside by `torch.set_default_device` is that of the program no longer than this.
    """
    device, before = _programs.get(), default_device()
    with nullcontext() if device is None else torch.device(device):
        try:
            yield
        finally:
            if default_device() != before:
                torch.set_default_device(before)
