"""Pinned memory, which a GPU reads and writes by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from layerprobe.compat.torch import empty_host_cache


def pinned(elements: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for what a device is sent or sends.

    Args:
        elements: How many numbers; torch takes the next power of two of their bytes.
        dtype: Their precision.
        device: The device.

    Returns:
        A vector with nothing in it: pinned where the device is a GPU and the machine has such memory left.
    """
    for again in (True, False) if device.type == "cuda" else ():
        try:
            return torch.empty(elements, dtype=dtype, pin_memory=True)
        except RuntimeError:
            if again:
                give_back()
    return torch.empty(elements, dtype=dtype)


def give_back() -> None:
    """Return pinned memory that is no longer used to the system; torch keeps it for later otherwise."""
    if torch.cuda.is_available():
        empty_host_cache()
