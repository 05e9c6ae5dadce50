"""Budget of a probe: the bytes for features beside the fit of the largest layer, and the cache that keeps to them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from layerprobe.formatting import size_text
from layerprobe.probing.discovery import Discovery
from layerprobe.probing.features.cache import FeatureCache
from layerprobe.probing.features.free_memory import memory_budget
from layerprobe.probing.fit_memory import Budget, feature_budget, free_on, host_budget, workspace
from layerprobe.probing.fitting import features_of
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.types import Split


def budget(device: torch.device | None, protocol: ProbeProtocol, resources: Resources, found: Discovery) -> Budget:
    """What probing may take: for features, what is allowed beside the fit of the largest layer.

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
    """What probing takes at least: bytes to fit the largest layer, and for the features of one batch."""
    fit = workspace(max(map(features_of, found.ways.values()), default=0), found.n_outputs, len(protocol.l2))
    fit += moment_bytes(found, protocol) if protocol.stream else 0
    return fit, 4 * found.batch_size * sum(found.n_features)


def feature_cache(
    protocol: ProbeProtocol, resources: Resources, allowed: Budget, samples: Mapping[Split, int | None]
) -> FeatureCache:
    """Room for all features; of `samples`, see `FeatureCache`."""
    kept_as = None if protocol.spill_dtype is None else getattr(torch, protocol.spill_dtype)
    return FeatureCache(allowed.features, resources.spill_path, kept_as, allowed.host, samples)


def moment_bytes(found: Discovery, protocol: ProbeProtocol) -> int:
    """Bytes kept of train where its features are streamed: a matrix for each way to make features.

    There is one for each class where classes are weighted.
    """
    matrices = found.n_outputs if is_weighted(protocol) else 1
    return sum(8 * matrices * way.reduction.n_features**2 for ways in found.ways.values() for way in ways)


def is_weighted(protocol: ProbeProtocol) -> bool:
    """Whether training samples count by their class."""
    return protocol.task.class_weight is not None
