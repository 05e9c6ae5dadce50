"""Budget of a probe: the bytes for features beside the fit of the largest layer, and the cache that keeps to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from layerprobe.formatting import size_text
from layerprobe.probing.discovery import Discovery
from layerprobe.probing.features.cache import FeatureCache
from layerprobe.probing.features.free_memory import memory_budget
from layerprobe.probing.fit_memory import workspace
from layerprobe.probing.fitting import features_of
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.types import Split


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


def budget(device: torch.device | None, protocol: ProbeProtocol, resources: Resources, found: Discovery) -> Budget:
    """Work out what probing may take: for features, what is allowed beside the fit of the largest layer.

    Raises:
        ValueError: Where `max_memory` has no room for what there has to be, or no memory has for streamed sums.
    """
    fit, one_batch = least_memory(protocol, found)
    allowed, processes = resources.max_memory, resources.processes
    sums, room = moment_bytes(found, protocol) if protocol.stream else 0, memory_budget(allowed, free_on(device))
    if sums > room:
        each = f" and each of {found.n_outputs} classes, whose weights are known at the end" * is_weighted(protocol)
        raise ValueError(
            f"Streaming keeps {size_text(sums)} of sums, a matrix for each layer{each}; `max_memory` allows "
            f"{size_text(room)}. Reduce the layers further, probe fewer at a time, or set stream=false: features "
            "that do not fit are then kept on disk."
        )
    features = feature_budget(device, allowed, fit, one_batch, processes)
    # Where processes share batches: those of all layers, packed, as they come from the others, and unpacked.
    shared = 4 * 4 * found.batch_size * sum(way.reduction.n_features for ways in found.every.values() for way in ways)
    return Budget(fit, max(features - shared, 0), host_budget(device, allowed, processes))


def least_memory(protocol: ProbeProtocol, found: Discovery) -> tuple[int, int]:
    """Work out what probing takes at least: bytes to fit the largest layer, and for the features of one batch."""
    fit = workspace(max(map(features_of, found.ways.values()), default=0), found.n_outputs, len(protocol.l2))
    fit += moment_bytes(found, protocol) if protocol.stream else 0
    return fit, 4 * found.batch_size * sum(found.n_features)


def feature_cache(
    protocol: ProbeProtocol, resources: Resources, allowed: Budget, samples: Mapping[Split, int | None]
) -> FeatureCache:
    """Make room for all features; of `samples`, see `FeatureCache`."""
    kept_as = None if protocol.spill_dtype is None else getattr(torch, protocol.spill_dtype)
    return FeatureCache(allowed.features, resources.spill_path, kept_as, allowed.host, samples)


def moment_bytes(found: Discovery, protocol: ProbeProtocol) -> int:
    """Count the bytes kept of train where its features are streamed: a matrix for each way to make features.

    There is one for each class where classes are weighted.
    """
    matrices = found.n_outputs if is_weighted(protocol) else 1
    return sum(8 * matrices * way.reduction.n_features**2 for ways in found.ways.values() for way in ways)


def is_weighted(protocol: ProbeProtocol) -> bool:
    """Tell whether training samples count by their class."""
    return protocol.task.class_weight is not None


def free_on(device: torch.device | None) -> int | None:
    """Count the bytes that are free on a GPU; None where the device is none, and the machine's own memory counts."""
    return torch.cuda.mem_get_info(device)[0] if device is not None and device.type == "cuda" else None


def feature_budget(
    device: torch.device | None, max_memory: int | float | str | None, wanted: int, one_batch: int, processes: int = 1
) -> int:
    """Work out what features may take, where the network is.

    Args:
        device: The network's device. On a GPU its own memory counts.
        max_memory: See `free_memory.memory_budget`.
        wanted: The largest layer's `workspace`.
        one_batch: Bytes of all layers' features of one batch, which are held until the batch is through.
        processes: Processes that share the machine's own memory, no more than `processes_with_room` of them.

    Raises:
        ValueError: Where the whole of `max_memory` holds no batch beside the work on a layer.
    """
    free = free_on(device)
    allowed = memory_budget(max_memory, free)
    if max_memory is not None and allowed < wanted + one_batch:
        raise ValueError(
            f"Probing needs {size_text(wanted + one_batch)}: {size_text(wanted)} to fit the largest layer and "
            f"{size_text(one_batch)} for the features of one batch. `max_memory` allows {size_text(allowed)}. "
            "Raise it, lower `batch_size`, reduce the layers to fewer features, or probe fewer layers at a time."
        )
    # Others may have taken a GPU's memory; what finds no room there moves away.
    return max((allowed // processes if free is None else min(allowed, free)) - wanted - one_batch, 0)


def processes_with_room(
    device: torch.device | None, max_memory: int | float | str | None, wanted: int, one_batch: int, processes: int
) -> int:
    """Count the processes of this machine that can probe at the same time; 0 where not even one can.

    Each takes `wanted` bytes to fit a layer and `one_batch` for the features of a batch; on a GPU each has the GPU's
    memory for itself.
    """
    if device is not None and device.type == "cuda":
        return processes
    return min(processes, memory_budget(max_memory) // (wanted + one_batch))


def host_budget(device: torch.device | None, max_memory: int | float | str | None, processes: int = 1) -> int:
    """Work out what features made on a GPU may take of the machine's own memory.

    `max_memory` holds for the GPU and for the machine's own memory each.

    Returns:
        Bytes; 0 where the network is on the CPU, whose memory `feature_budget` has dealt with.
    """
    return 0 if device is None or device.type != "cuda" else memory_budget(max_memory) // processes
