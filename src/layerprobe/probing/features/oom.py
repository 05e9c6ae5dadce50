"""Out of memory on a GPU: what it has no room for is done on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.features.row_blocks import AbstractRows

T = TypeVar("T")

log = logging.getLogger("layerprobe")


_FULL = ("out of memory", "ALLOC_FAILED", "STATUS_NOT_INITIALIZED")
"""What errors of CUDA and its libraries say where the memory that they ask for by themselves is not there."""


class OnCPU(AbstractRows):
    """Rows that are brought to the CPU as they are read."""

    def __init__(self, rows: AbstractRows) -> None:
        self.rows, self.shape, self.dtype, self.device = rows, rows.shape, rows.dtype, torch.device("cpu")

    def __getitem__(self, rows: slice) -> Float[Tensor, "k d"]:
        """See `AbstractRows.__getitem__`."""
        return self.rows[rows].cpu()


def on_cpu(features: Tensor | AbstractRows | None) -> Tensor | AbstractRows | None:
    """Return features for work on the CPU."""
    return OnCPU(features) if isinstance(features, AbstractRows) else None if features is None else features.cpu()


def with_room(work: Callable[..., T], *features: Tensor | AbstractRows | None, what: str) -> T:
    """Do something with features where they are, and on the CPU where their device runs out of memory."""
    try:
        return work(*features)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        reason = without_advice(error)
    # Outside of the handler: the exception's traceback would hold on to what did not fit.
    log.warning("%s: fitted on the CPU, since the GPU's memory is full. %s", what, reason)
    free_cache()
    return work(*map(on_cpu, features))


def out_of_memory(error: RuntimeError) -> bool:
    """Tell whether an error says that a GPU's memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in _FULL)


def free_cache() -> None:
    """Give memory that torch keeps for later back to the GPU."""
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # of torch's own, after a graph whose recording broke
            torch.cuda.empty_cache()


def without_advice(error: BaseException) -> str:
    """Shorten an error to its first two sentences at most, without the advice that torch gives on its allocator."""
    return ". ".join(str(error).split(". ")[:2])
