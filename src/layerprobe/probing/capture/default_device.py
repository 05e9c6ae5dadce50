"""Torch's default device: own tensors are made on the CPU, and the program's networks and data by its own default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

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
    """Make tensors inside where the program makes them: its default device as `own_device` found it."""
    device = _programs.get()
    if device is None:
        yield
        return
    with torch.device(device):
        yield
