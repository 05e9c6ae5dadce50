"""Recording of a split whose features are looked at, and the layers of a network with what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import layerprobe
from layerprobe.probing.activation_recorder import ActivationRecorder
from layerprobe.probing.capture.freeze import Frozen
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.features.cache import FeatureCache
from layerprobe.probing.features.reducers import Reduction
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.types import LayerName, Split


def recorded(
    frozen: Frozen,
    batches: Iterable[Any],
    reductions: Mapping[Layer, Sequence[Reduction]],
    protocol: ProbeProtocol | None = None,
    split: Split = "train",
) -> tuple[dict[tuple[LayerName, str], Tensor], dict[LayerName, str]]:
    """Features by layer and what was done to make them, and why layers have none."""
    cache = FeatureCache(2**40)
    with ActivationRecorder(frozen, reductions, protocol or ProbeProtocol(), cache, split) as record:
        for batch in batches:
            record(batch)
    problems = record.recording.problems
    return {
        (layer.name, made.description): torch.as_tensor(cache.take((layer.name, split, made.description)))
        for layer, found in reductions.items()
        for made in found
        if layer.name not in problems
    }, dict(problems)


def surveyed(network: nn.Module, inputs: Any, granularity: Any = "ops") -> tuple[tuple[Layer, ...], Mapping[str, str]]:
    """The layers, and what is left out with the reason."""
    found = layerprobe.layers(network, inputs, granularity=granularity)
    return found.layers, found.left_out
