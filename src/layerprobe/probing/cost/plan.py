"""What probing a network would take: counted, and timed on this machine before it is begun."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from layerprobe.formatting import size_text, time_text
from layerprobe.probing.batches import Data, check_splits, n_samples, reshuffled
from layerprobe.probing.capture.freeze import frozen
from layerprobe.probing.capture.inputs import device_of
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.cost.machine import measure
from layerprobe.probing.features.reducers import Reduction
from layerprobe.probing.fitting import Ways, features_of
from layerprobe.probing.parallel import layers_in_parallel
from layerprobe.probing.pipeline import find_ways, first_batch, moment_bytes
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.recording import WITHOUT_DOUBLE, Context, run_split
from layerprobe.probing.resources import DEFAULTS, Resources
from layerprobe.probing.solvers.gram import Spectrum
from layerprobe.probing.solvers.operation_counts import Operations
from layerprobe.probing.targets import n_outputs
from layerprobe.probing.workspace import feature_budget, host_budget, workspace
from layerprobe.types import SPLITS, LayerName, Split

_SAMPLES = 512
_SECONDS = 3.0
_FLOAT = 4

_WORKER = 0.75
"""What a process that fits layers beside others brings, in processors; measured with two."""

Place: TypeAlias = Literal["memory", "disk"]
"""Where features are between the network's pass and the fits."""


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
        record_seconds: Time to make features of its activations, and to write those that go to disk.
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
        pass_seconds: Time of the network's passes over all splits, with loading, reducing and writing.
        n_measured: Samples that the passes' time is taken from.
        side_by_side: The layers that are fitted side by side.
        workers: How many of them at a time.
        workspace: Memory to fit the largest layer, and of what is kept in the features' place where train is streamed.
        disk: Bytes of disk that the features take that do not fit into memory.
        stream: Whether no training feature is kept.
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

    @property
    def fit_seconds(self) -> float:
        """Time to fit and measure the heads of all layers."""
        together = sum(layer.seconds for layer in self.layers if layer.layer in self.side_by_side)
        alone = sum(layer.seconds for layer in self.layers if layer.layer not in self.side_by_side)
        return alone + together / max(1.0, _WORKER * self.workers)

    @property
    def seconds(self) -> float:
        """All the time."""
        return self.pass_seconds + self.fit_seconds

    @property
    def memory(self) -> int:
        """All the memory, beside the network."""
        return self.workspace + sum(layer.bytes for layer in self.layers if layer.place == "memory")

    def lines(self) -> tuple[str, str]:
        """The plan in two lines."""
        count = {place: sum(layer.place == place for layer in self.layers) for place in ("memory", "disk")}
        kept = [f"{n} in memory" if place == "memory" else f"{n} on disk" for place, n in count.items() if n]
        streamed = "train streamed, " if self.stream else ""
        disk = f", disk {size_text(self.disk)}" if self.disk else ""
        return (
            f"{len(self.layers)} layers, {sum(self.samples.values()):,} samples, one pass; "
            f"features: {streamed}{', '.join(kept)}; "
            f"memory {size_text(self.memory)}{disk}",
            f"about {time_text(self.seconds)}: {time_text(self.pass_seconds)} to record, "
            f"{time_text(self.fit_seconds)} to fit",
        )


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

    A few training batches are recorded, drawn at random; passes are taken to be linear in samples. What fits do is
    counted (see `Operations`) and multiplied with what this machine takes for each kind of work, which is timed on
    random numbers. Together that is a few seconds. How many iterations a head needs depends on how separable its layer
    is, which is what is to be found out: a typical number stands for it.

    Args:
        network: The network; it is left as it was.
        data: The splits.
        protocol: The sweep.
        context: Makes what the network's passes run in.
        resources: What it may take.
        done: Layers to leave out.
        samples: Samples of each split, where other data than these are planned for; by default those of `data`.

    Returns:
        The plan.

    Raises:
        ValueError: As for probing.
    """
    check_splits(data, needs_val=protocol.needs_val)
    first = first_batch(network, data, protocol, resources)
    ways = find_ways(network, first, protocol, context, done)
    samples = samples or {split: n_samples(data[split]) for split in SPLITS if data.get(split) is not None}
    trial = _record_some(network, data, protocol, resources, ways, context)
    device = device_of(network) or torch.device("cpu")
    if device.type in WITHOUT_DOUBLE:
        device = torch.device("cpu")
    truth = protocol.targets_of(first, "train")
    outputs = max(n_outputs(trial.targets), n_outputs(truth))
    widths = [way.reduction.n_features for found in ways.values() for way in found] or [1]
    fit = workspace(max(widths), outputs, len(protocol.l2))
    sizes = {layer: _FLOAT * sum(w.reduction.n_features for w in found) for layer, found in ways.items()}
    every = sum(samples.values())
    kept = every - samples["train"] if protocol.stream else every
    moments = moment_bytes(ways) if protocol.stream else 0
    budget = feature_budget(device, resources.max_memory, fit + moments, len(truth) * sum(sizes.values()))
    budget += host_budget(device, resources.max_memory)
    held = {layer.name: size * kept for layer, size in sizes.items()}
    on_disk = spilled(held, budget)
    places: dict[Layer, Place] = {layer: "disk" if layer.name in on_disk else "memory" for layer in ways}
    stays: Collection[LayerName] = ()
    if not protocol.stream:
        stays = read_again(held, on_disk, budget, samples["train"] / every)
    work = {
        layer: sum(
            (way_operations(protocol, samples, way.reduction.n_features, outputs) for way in found),
            Operations(),
        )
        for layer, found in ways.items()
    }
    written = {layer: Operations(writes=sizes[layer] / _FLOAT * kept * (places[layer] == "disk")) for layer in ways}
    kinds = sum([*work.values(), *written.values()], Operations())
    _, columns = protocol.task.fits(outputs)
    with frozen(network, seed=protocol.seeds[0]):
        each = measure(kinds, max(widths), columns, device, resources.spill_path)
    layers = tuple(
        PlannedLayer(
            layer.depth,
            layer.name,
            layer.kind,
            layer.shape,
            math.prod(layer.shape),
            sizes[layer] // _FLOAT,
            sizes[layer] * kept,
            places[layer],
            trial.reduce_seconds[layer.name] * every + written[layer].dot(each),
            _without_reads(work[layer], layer.name in stays).dot(each),
        )
        for layer in ways
    )
    small: Collection[Layer] = ()
    workers = 1
    if not protocol.stream:
        in_memory = {layer: features_of(found) for layer, found in ways.items() if places[layer] == "memory"}
        left = max(budget - sum(sizes[layer] * every for layer in in_memory), 0)
        small, workers = layers_in_parallel(in_memory, samples, outputs, protocol, device_of(network), left)
    half = 0.5 if protocol.spill_dtype == "bfloat16" else 1.0
    return Plan(
        layers,
        samples,
        trial.seconds_per_sample * every + sum(work.dot(each) for work in written.values()),
        len(trial.targets),
        {layer.name for layer in small},
        workers,
        fit + moments,
        int(half * sum(layer.bytes for layer in layers if layer.place == "disk")),
        protocol.stream,
    )


def way_operations(protocol: ProbeProtocol, samples: Mapping[Split, int], d: int, outputs: int) -> Operations:
    """Count what probing one layer in one way does once its features are there.

    Args:
        protocol: The sweep.
        samples: Samples of each split.
        d: Features.
        outputs: Classes, labels or values.

    Returns:
        The counts.
    """
    n, p, others = samples["train"], len(protocol.l2), sum(samples.get(split, 0) for split in ("val", "test"))
    times, columns = protocol.task.fits(outputs)
    variants = 1 + len(protocol.controls)
    # Taken out of the bank, standardised; validation of the whole path, train and test of the selected head.
    shown = samples.get("val", 0) * p + n + samples.get("test", 0)
    once = Operations(elements=(n + others) * d, reads=(2 * n + 2 * others) * d)
    judged = Operations(thin=shown * d * outputs / 2, scores=shown * outputs, reads=n * d)
    total = once if protocol.stream else once + Spectrum.operations(n, d)
    for solver in protocol.solvers:
        total += (solver.operations(n, d, columns, p) * times + judged) * variants
    if protocol.refit:
        total += once + Spectrum.operations(n + others, d) + protocol.solvers[0].operations(n, d, columns, 1) * times
    return total


def spilled(held: Mapping[LayerName, int], budget: int) -> set[LayerName]:
    """Which layers go to disk: the largest, until the rest fits, as `FeatureBank` does.

    Args:
        held: Bytes of each layer.
        budget: Bytes for all of them.
    """
    on_disk: set[LayerName] = set()
    left = sum(held.values())
    for layer in sorted(held, key=lambda layer: -held[layer]):
        if left <= budget:
            break
        on_disk.add(layer)
        left -= held[layer]
    return on_disk


def read_again(
    held: Mapping[LayerName, int], on_disk: Collection[LayerName], budget: int, share: float
) -> set[LayerName]:
    """Which of them are read from disk in every pass: those that find no room when their turn comes.

    Args:
        held: Bytes of each layer, in the order that they are fitted.
        on_disk: Those that went to disk.
        budget: Bytes for all of them.
        share: Of a layer's bytes, those of the training split.
    """
    left, found = sum(size for layer, size in held.items() if layer not in on_disk), set()
    for layer, size in held.items():
        if layer not in on_disk:
            left -= size
        elif share * size > budget - left:
            found.add(layer)
    return found


def _without_reads(work: Operations, from_disk: bool) -> Operations:
    return work if from_disk else work + Operations(reads=-work.reads)


@dataclass(frozen=True)
class _Trial:
    """A few recorded batches.

    Attributes:
        targets: Their targets.
        seconds_per_sample: Time for one sample, with loading it.
        reduce_seconds: Of that, the time to make features of each layer.
    """

    targets: Tensor
    seconds_per_sample: float
    reduce_seconds: Mapping[LayerName, float]


def _record_some(
    network: nn.Module, data: Data, protocol: ProbeProtocol, resources: Resources, ways: Ways, context: Context
) -> _Trial:
    times: list[float] = []
    sizes: list[int] = []

    def read(batch: Any, split: Split) -> Tensor:
        targets = protocol.targets_of(batch, split)
        sizes.append(len(targets))
        return targets

    def some() -> Iterator[Any]:
        began = start = time.perf_counter()
        with closing(reshuffled(data["train"], resources.batch_size, protocol.seeds[0])) as batches:
            for batch in batches:
                yield batch
                now = time.perf_counter()
                times.append(now - start)
                if len(times) > 1 and (sum(sizes) >= _SAMPLES or now - began > _SECONDS):
                    break
                start = now

    kept: list[Tensor] = []

    def keep(layer: Layer, reduction: Reduction, features: Tensor, targets: Tensor) -> None:
        kept.append(features)

    reductions = {layer: [way.reduction for way in found] for layer, found in ways.items()}
    with frozen(network, seed=protocol.seeds[0]):
        found = run_split(
            network, some(), "train", reductions, protocol.inputs, read, protocol.mask_of, keep, context=context
        )
    # The first batch also pays for what happens once, and the last may be short.
    typical = statistics.median(t / n for t, n in list(zip(times, sizes, strict=True))[1:] or [(times[0], sizes[0])])
    scale = typical / (sum(times) / sum(sizes)) / sum(sizes)
    return _Trial(found.targets, typical, {layer.name: scale * found.seconds[layer.name] for layer in ways})
