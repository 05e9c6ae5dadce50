"""Memory of a fit: bytes that fitting a layer takes, and what that leaves for features."""

from __future__ import annotations

from typing import NamedTuple

import torch

from layerprobe.formatting import size_text
from layerprobe.probing.features.free_memory import memory_budget
from layerprobe.probing.solvers.l2_path import PAIR_BYTES
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.newton import newton_bytes
from layerprobe.probing.solvers.spectrum import decomposition_bytes

_FIXED = 600 * 2**20
"""Scores that a certificate keeps or, when it does not, the samples of a Hessian and the directions of its system; and
blocks of rows in float64."""


class Budget(NamedTuple):
    """Bytes that probing may take beside the network.

    Attributes:
        fit: Fitting the largest layer, and what is kept in the features' place where train is streamed.
        features: Features, where they are made.
        host: Features made on a GPU, in the machine's own memory.
    """

    fit: int
    features: int
    host: int


def workspace(d: int, c: int, p: int) -> int:
    """What solving one layer holds at a time, at most.

    Args:
        d: Features.
        c: Classes.
        p: L2 values.

    Returns:
        Bytes: the decomposition with its working copies, the curvature pairs, a Hessian, and the heads in both
        precisions.
    """
    return _FIXED + decomposition_bytes(d) + newton_bytes(d, c) + path_bytes(d, c, p)


def path_bytes(d: int, c: int, p: int) -> int:
    """Bytes of p heads of c classes and d features in both precisions, with the curvature pairs."""
    return min(PAIR_BYTES, 12 * Logistic.memory * c * d) + 24 * p * c * d


def free_on(device: torch.device | None) -> int | None:
    """Bytes that are free on a GPU; None where the device is none, and the machine's own memory counts."""
    return torch.cuda.mem_get_info(device)[0] if device is not None and device.type == "cuda" else None


def feature_budget(
    device: torch.device | None,
    max_memory: int | float | str | None,
    wanted: int,
    one_batch: int,
    processes: int = 1,
) -> int:
    """What features may take, where the network is.

    Args:
        device: The network's device. On a GPU its own memory counts.
        max_memory: See `memory.memory_budget`.
        wanted: The largest layer's `workspace`.
        one_batch: Bytes of all layers' features of one batch, which are held until the batch is through.
        processes: Processes that share the machine's own memory, no more than `processes_with_room` of them.

    Raises:
        ValueError: Where the whole of `max_memory` holds no batch beside the work on a layer.
    """
    free = free_on(device)
    budget = memory_budget(max_memory, free)
    if max_memory is not None and budget < wanted + one_batch:
        raise ValueError(
            f"Probing needs {size_text(wanted + one_batch)}: {size_text(wanted)} to fit the largest layer and "
            f"{size_text(one_batch)} for the features of one batch. `max_memory` allows {size_text(budget)}. "
            "Raise it, lower `batch_size`, reduce the layers to fewer features, or probe fewer layers at a time."
        )
    # Others may have taken a GPU's memory; what finds no room there moves away.
    return max((budget // processes if free is None else min(budget, free)) - wanted - one_batch, 0)


def processes_with_room(
    device: torch.device | None, max_memory: int | float | str | None, wanted: int, one_batch: int, processes: int
) -> int:
    """How many processes of this machine can probe at the same time; 0 where not even one can.

    Each takes `wanted` bytes to fit a layer and `one_batch` for the features of a batch; on a GPU each has the GPU's
    memory for itself.
    """
    if device is not None and device.type == "cuda":
        return processes
    return min(processes, memory_budget(max_memory) // (wanted + one_batch))


def host_budget(device: torch.device | None, max_memory: int | float | str | None, processes: int = 1) -> int:
    """What features made on a GPU may take of the machine's own memory.

    `max_memory` holds for the GPU and for the machine's own memory each.

    Returns:
        Bytes; 0 where the network is on the CPU, whose memory `feature_budget` has dealt with.
    """
    return 0 if device is None or device.type != "cuda" else memory_budget(max_memory) // processes
