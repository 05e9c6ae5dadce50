"""Plan of a probe: which layers, how many bytes in which places, and how many seconds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from layerprobe.formatting import count_text, size_text, time_text
from layerprobe.probing.batches import Data, check_splits, n_samples
from layerprobe.probing.budget import budget
from layerprobe.probing.capture.call_arguments import device_of
from layerprobe.probing.capture.default_device import own_device
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.capture.hooks import Context
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.cost.pilot import Sample, fit_seconds, record_sample
from layerprobe.probing.discovery import Discovery, discover_layers
from layerprobe.probing.features.cache import Place, places
from layerprobe.probing.fitting import features_of, fitted_features, unfitted_features
from layerprobe.probing.parallel.process_pool import layers_in_parallel
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import DEFAULTS, Resources
from layerprobe.probing.solvers.threads import evaluation_operations, threads
from layerprobe.probing.targets import n_outputs
from layerprobe.types import LayerName, Split

_FLOAT = 4

_WORKER = 0.75
"""What a process that fits layers beside others brings, in processors; measured with two."""

_WHERE = {"memory": "{} in memory", "host": "{} in the machine's own memory", "disk": "{} on disk"}


@dataclass(frozen=True)
class PlannedLayer:
    """One layer that would be probed.

    Attributes:
        depth: Its depth.
        layer: Its name.
        kind: What makes it.
        shape: Shape of one sample's activation.
        n_features_full: Size of one sample's activation.
        n_features: Features that are fitted, of all ways to make them together.
        bytes: Its features of all splits, without those of train where they are streamed.
        place: Where these are kept.
        record_seconds: Time to make features of its activations.
        seconds: Time to fit and measure its heads.
    """

    depth: int
    layer: LayerName
    kind: str
    shape: tuple[int, ...]
    n_features_full: int
    n_features: int
    bytes: int
    place: Place
    record_seconds: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What would be probed, and what it would cost.

    Attributes:
        layers: The layers.
        samples: Samples of each split.
        pass_seconds: Time of the network's passes over all splits, with loading and reducing.
        n_measured: Samples that the passes' time is taken from.
        side_by_side: The layers that are fitted side by side.
        workers: How many of them at a time.
        workspace: Memory to fit the largest layer, and of what is kept in the features' place where train is streamed.
        disk: Bytes of disk that the features take that do not fit into memory.
        stream: Whether no training feature is kept.
        discovery: What was found out about the network, which probing it need not find out once more.
        processes: Processes that the layers are dealt out to.
        analyses: Whether there are analyses besides, whose time nothing says: it may be that of many paths.
    """

    layers: tuple[PlannedLayer, ...]
    samples: Mapping[Split, int]
    pass_seconds: float
    n_measured: int
    side_by_side: Collection[LayerName]
    workers: int
    workspace: int
    disk: int
    stream: bool
    discovery: Discovery
    processes: int = 1
    analyses: bool = False

    @property
    def fit_seconds(self) -> float:
        """Time to fit and measure the heads of all layers."""
        together = sum(layer.seconds for layer in self.layers if layer.layer in self.side_by_side)
        alone = sum(layer.seconds for layer in self.layers if layer.layer not in self.side_by_side)
        return (alone + together / max(1.0, _WORKER * self.workers)) / max(1, min(self.processes, len(self.layers)))

    @property
    def seconds(self) -> float:
        """All the time."""
        return self.pass_seconds + self.fit_seconds

    @property
    def memory(self) -> int:
        """All the memory, beside the network."""
        return self.workspace + sum(layer.bytes for layer in self.layers if layer.place != "disk")

    def lines(self) -> tuple[str, str]:
        """Sum the plan up in two lines."""
        count = {words: sum(layer.place == place for layer in self.layers) for place, words in _WHERE.items()}
        kept = [words.format(n) for words, n in count.items() if n]
        streamed = "train streamed, " if self.stream else ""
        disk = f", disk {size_text(self.disk)}" if self.disk else ""
        return (
            f"{count_text(len(self.layers), 'layer')}, {count_text(sum(self.samples.values()), 'sample')}, one pass; "
            f"features: {streamed}{', '.join(kept)}; "
            f"memory {size_text(self.memory)}{disk}",
            f"about {time_text(self.seconds)}: {time_text(self.pass_seconds)} to record, "
            f"{time_text(self.fit_seconds)} to fit"
            + (f" by {self.processes} processes" if self.processes > 1 else "")
            + (", and the analyses" if self.analyses else ""),
        )


@own_device()
def make_plan(
    network: nn.Module,
    data: Data,
    protocol: ProbeProtocol,
    context: Context = nullcontext,
    *,
    resources: Resources = DEFAULTS,
    done: Collection[LayerName] = (),
    samples: Mapping[Split, int] | None = None,
) -> Plan:
    """List the layers that would be probed, and say what they would cost.

    Where features are kept, which layers are fitted side by side and what a fit takes beside its features is asked of
    what decides it when a network is probed. The time is that of a pilot: a few training batches are recorded, drawn
    at random, and a few layers are fitted to a part of them; passes are taken to be linear in samples. Together that is
    a few seconds. How many evaluations a head needs depends on how separable its layer is for all samples, which is
    what is to be found out: those that it needs for few stand for them.

    Args:
        network: The network; it is left as it was.
        data: The splits.
        protocol: The sweep.
        context: Makes what the network's passes run in.
        resources: What it may take.
        done: Layers to leave out.
        samples: Samples of each split, where other data than these are planned for; by default those of `data`.

    Raises:
        ValueError: As for probing.
    """
    check_splits(data, needs_val=protocol.needs_val)
    with freeze(network, context=context) as frozen:
        discovery = discover_layers(frozen, data, protocol, resources, done)
        sample = record_sample(frozen, data, protocol, resources, discovery.ways)
    samples = samples or {split: n_samples(source) for split, source in data.items() if source is not None}
    return _planned(discovery, sample, samples, device_of(network), protocol, resources)


def _planned(
    discovery: Discovery,
    sample: Sample,
    samples: Mapping[Split, int],
    device: torch.device | None,
    protocol: ProbeProtocol,
    resources: Resources,
) -> Plan:
    """Foretell what so many samples take, from what a few of them showed."""
    ways = discovery.ways
    n, every = samples["train"], sum(samples.values())
    outputs = max(n_outputs(sample.targets), discovery.n_outputs)
    allowed = budget(device, protocol, resources, discovery)
    widths = {layer: sum(way.reduction.n_features for way in found) for layer, found in ways.items()}
    sizes = {layer.name: _FLOAT * width * (every - n * protocol.stream) for layer, width in widths.items()}
    place = places(sizes, allowed.features, allowed.host)
    left = allowed.features - sum(size for layer, size in sizes.items() if place[layer] == "memory")
    near = {layer: features_of(found) for layer, found in ways.items() if place[layer.name] != "disk"}
    unfitted = {layer: unfitted_features(ways[layer]) for layer in near}
    together, workers = layers_in_parallel(near, samples, outputs, protocol, device, left, unfitted)

    def threads_of(layer: Layer, n: int) -> int:
        _, columns = protocol.task.fits(outputs)
        worth = threads(evaluation_operations(n, features_of(ways[layer]), columns, len(protocol.l2)))
        return 1 if layer in together else worth

    in_passes = set() if protocol.stream else read_in_passes(sizes, place, allowed.features, n / every)
    fit = fit_seconds(sample, ways, protocol, resources, samples, outputs, in_passes, threads_of)
    layers = tuple(
        PlannedLayer(
            layer.depth,
            layer.name,
            layer.kind,
            layer.shape,
            math.prod(layer.shape),
            fitted_features(ways[layer]),
            sizes[layer.name],
            place[layer.name],
            sample.reduce_seconds[layer.name] * every,
            fit[layer],
        )
        for layer in widths
    )
    half = 0.5 if protocol.spill_dtype == "bfloat16" else 1.0
    return Plan(
        layers,
        samples,
        sample.seconds * every,
        len(sample.targets),
        {layer.name for layer in together},
        workers,
        allowed.fit,
        int(half * sum(layer.bytes for layer in layers if layer.place == "disk")),
        protocol.stream,
        discovery,
        analyses=bool(protocol.analyses),
    )


def read_in_passes(
    sizes: Mapping[LayerName, int], place: Mapping[LayerName, Place], budget: int, share: float
) -> set[LayerName]:
    """Find the layers that are read from disk in every pass of a fit: those that find no room when their turn comes.

    Args:
        sizes: Bytes of each layer, in the order that they are fitted.
        place: Where they are kept.
        budget: Bytes for those in memory.
        share: Of a layer's bytes, those of the training split.
    """
    left, found = budget - sum(size for layer, size in sizes.items() if place[layer] == "memory"), set()
    for layer, size in sizes.items():
        if place[layer] == "memory":
            left += size
        elif place[layer] == "disk" and share * size > left:
            found.add(layer)
    return found
