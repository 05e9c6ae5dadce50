"""Which layers are fitted side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.cpu_threads import WORTH, evaluation_operations
from layerprobe.probing.solvers.gram import LARGEST
from layerprobe.probing.workspace import path_bytes, workspace
from layerprobe.types import Split

_WORTH_PROCESSES = 2e8
"""Operations of one evaluation of all layers below which making processes, about 0.05 s, costs more than they bring."""


def small_layers(
    features: Mapping[Layer, int],
    samples: Mapping[Split, int],
    outputs: int,
    protocol: ProbeProtocol,
    device: torch.device | None,
    left: int,
) -> tuple[Collection[Layer], int]:
    """Choose them: those that take little of the CPU, as many at a time as there is memory for.

    Args:
        features: Of the layers that are in memory, the number of features.
        samples: Samples of each split.
        outputs: Classes, labels or values.
        protocol: The sweep.
        device: Where the network is.
        left: Bytes that neither features nor the fit of the largest layer take.

    Returns:
        The layers, and how many at a time.
    """
    if device is not None and device.type == "cuda":
        return (), 1
    n, p, threads = samples["train"], len(protocol.l2), torch.get_num_threads()
    others = sum(samples.values()) - n
    _, columns = protocol.task.fits(outputs)
    small = [layer for layer, d in features.items() if is_small(n, d, columns, p, threads)]
    if len(small) < threads:
        small = [layer for layer, d in features.items() if is_small(n, d, columns, p)]
    if sum(evaluation_operations(n, features[layer], columns, p) for layer in small) < _WORTH_PROCESSES:
        return (), 1
    each = max(small_workspace(n, features[layer], outputs, p) + 4 * others * features[layer] for layer in small)
    room = (workspace(max(features.values()), outputs, p) + left) // each
    return small, max(1, min(threads, len(small), room))


def is_small(n: int, d: int, c: int, p: int, threads: int = 1) -> bool:
    """Whether the fit of a layer is faster on one thread while others are fitted beside it.

    Args:
        n: Training samples.
        d: Features.
        c: Classes.
        p: L2 values.
        threads: What it would have for itself. For one, a second would not be worth it.
    """
    worth = WORTH if threads == 1 else 1.5 * WORTH * threads
    return min(n, d) <= LARGEST and evaluation_operations(n, d, c, p) < worth


def small_workspace(n: int, d: int, c: int, p: int) -> int:
    """What fitting such a layer takes at most, its own copy of the features with it.

    Args:
        n: Training samples.
        d: Features.
        c: Classes.
        p: L2 values.

    Returns:
        Bytes: features, the decomposition with its working copies, coordinates in float64, the heads and their
        curvature pairs, scores.
    """
    e = min(n, d)
    return 4 * n * d + 48 * e * e + 16 * n * e + path_bytes(d, c, p) + 48 * n * c * p
