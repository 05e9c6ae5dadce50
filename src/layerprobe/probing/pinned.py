"""Memory that a GPU reads and writes by itself."""

from __future__ import annotations

import torch
from torch import Tensor


def pinned(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for what a device is sent or sends.

    Args:
        shape: Of the matrix.
        dtype: Its precision.
        device: The device.

    Returns:
        A matrix with nothing in it: pinned where the device is a GPU and the machine has such memory left.
    """
    try:
        return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
    except RuntimeError:
        return torch.empty(shape, dtype=dtype)


def give_back() -> None:
    """Return pinned memory that is no longer used to the system; torch keeps it for later otherwise."""
    if torch.cuda.is_available() and hasattr(torch.accelerator, "empty_host_cache"):  # torch >= 2.12
        torch.accelerator.empty_host_cache()
