"""Bytes that fitting a layer takes beside its features."""

from __future__ import annotations

import torch

from layerprobe.probing.memory import SHARE, memory_budget
from layerprobe.probing.solvers.path import PAIR_BYTES
from layerprobe.probing.solvers.spectrum import LARGEST, SAMPLE

_FIXED = 600 * 2**20
"""Scores that a certificate keeps, and blocks of rows in float64."""


def workspace(d: int, c: int, p: int) -> int:
    """What solving one layer holds at a time, at most.

    Args:
        d: Features.
        c: Classes.
        p: L2 values.

    Returns:
        Bytes: the decomposition with its working copies, the curvature pairs, and the heads in both precisions.
    """
    decomposition = 32 * d * d if d <= LARGEST else 16 * SAMPLE * d
    return _FIXED + decomposition + min(PAIR_BYTES, 128 * c * d) + 24 * p * c * d


def feature_budget(
    device: torch.device | None, max_memory: int | float | str | None, wanted: int, one_batch: int
) -> int:
    """What features may take, where the network is.

    Args:
        device: The network's device. On a GPU its own memory counts.
        max_memory: See `memory.memory_budget`.
        wanted: The largest layer's `workspace`.
        one_batch: Bytes of all layers' features of one batch.

    Returns:
        Bytes.

    Raises:
        ValueError: Where `max_memory` holds no batch beside the work on a layer.
    """
    if device is not None and device.type == "cuda" and max_memory is None:
        budget = int(SHARE * torch.cuda.mem_get_info(device)[0])
    else:
        budget = memory_budget(max_memory)
    if max_memory is not None and budget < wanted + one_batch:
        raise ValueError(
            f"Probing needs {(wanted + one_batch) / 1e9:.2f} GB: {wanted / 1e9:.2f} GB to fit the largest layer and "
            f"{one_batch / 1e9:.2f} GB for the features of one batch. `max_memory` allows {budget / 1e9:.2f} GB. "
            "Raise it, lower `batch_size`, reduce the layers to fewer features, or probe fewer layers at a time."
        )
    return max(budget - wanted, 0)
