"""What probing a network would take, measured on a few batches before it is begun."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.probing.batches import Data, check_splits, in_order, n_samples
from layerprobe.probing.features import Reduction
from layerprobe.probing.frozen import frozen
from layerprobe.probing.layers import Layer
from layerprobe.probing.pipeline import find_ways, first_batch
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.recording import Context, run_split
from layerprobe.probing.solvers.spectrum import Spectrum
from layerprobe.probing.standardise import Standardiser
from layerprobe.probing.sweep import FeatureWay, Ways
from layerprobe.probing.workspace import workspace
from layerprobe.types import SPLITS, LayerName, Split

_SAMPLES = 512
_SECONDS = 20.0
_FLOAT = 4


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
        bytes: Memory for its features of all splits.
        seconds: Time to fit its heads; NaN where it is not known.
    """

    depth: int
    layer: LayerName
    kind: str
    shape: tuple[int, ...]
    n_features_full: int
    n_features: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What would be probed, and what it would cost.

    Attributes:
        layers: The layers.
        samples: Samples of each split.
        pass_seconds: Time of the network's passes over all splits, with reducing.
        n_measured: Samples that the times are taken from.
        workspace: Memory to fit the largest layer, beside the features.
    """

    layers: tuple[PlannedLayer, ...]
    samples: Mapping[Split, int]
    pass_seconds: float
    n_measured: int
    workspace: int

    @property
    def seconds(self) -> float:
        """All the time; NaN where that of the fits is not known."""
        return self.pass_seconds + sum(layer.seconds for layer in self.layers)

    @property
    def bytes(self) -> int:
        """All the memory, if every feature is kept in it."""
        return self.workspace + sum(layer.bytes for layer in self.layers)


def make_plan(network: nn.Module, data: Data, protocol: ProbeProtocol, context: Context = nullcontext) -> Plan:
    """List the layers that would be probed, and measure what they would cost.

    Some training batches are recorded, of at most 512 samples or for 20 seconds, and the whole sweep is fitted to the
    smallest, the middle and the largest number of features among the layers, on these samples. Passes are scaled by the
    number of batches. Fits are taken to be linear in samples and, between the measured sizes, a power of the features.
    That is right about passes to within a few per cent; about fits it is a guess, seldom off by more than a factor of
    three: how many iterations a head needs depends on how separable its layer is, which is what is to be found out.

    Args:
        network: The network; it is left as it was.
        data: The splits.
        protocol: The sweep.
        context: Makes what the network's passes run in.

    Returns:
        The plan.

    Raises:
        ValueError: As for probing.
    """
    check_splits(data, chooses=protocol.chooses)
    ways = find_ways(network, first_batch(network, data, protocol), protocol, context)
    samples = {split: n_samples(data[split]) for split in SPLITS if data.get(split) is not None}
    trial = _record_some(network, data, protocol, ways, context)
    sizes = {layer: sum(way.reduction.n_features for way in found) for layer, found in ways.items()}
    fit = _FitTime.of(trial, ways, sizes, protocol)
    outputs = trial.targets.shape[1] if trial.targets.ndim > 1 else len(trial.targets.unique())
    times_per_sample = trial.seconds_per_batch / trial.batch_size
    return Plan(
        tuple(
            PlannedLayer(
                layer.depth,
                layer.name,
                layer.kind,
                layer.shape,
                math.prod(layer.shape),
                sizes[layer],
                0 if protocol.stream else _FLOAT * sizes[layer] * sum(samples.values()),
                fit(sizes[layer], samples["train"]),
            )
            for layer in ways
        ),
        samples,
        times_per_sample * sum(samples.values()),
        len(trial.targets),
        workspace(max(sizes.values(), default=1), outputs, len(protocol.l2)),
    )


@dataclass(frozen=True)
class _Trial:
    """A few recorded batches."""

    targets: Tensor
    features: Mapping[tuple[LayerName, str], Tensor]
    seconds_per_batch: float
    batch_size: int


def _record_some(network: nn.Module, data: Data, protocol: ProbeProtocol, ways: Ways, context: Context) -> _Trial:
    kept: dict[tuple[LayerName, str], list[Tensor]] = {}
    times: list[float] = []
    sizes: list[int] = []

    def keep(layer: Layer, reduction: Reduction, features: Tensor, targets: Tensor) -> None:
        kept.setdefault((layer.name, reduction.description), []).append(features)

    def read(batch: Any, split: Split) -> Tensor:
        targets = protocol.targets_of(batch, split)
        sizes.append(len(targets))
        return targets

    def some() -> Iterator[Any]:
        began = time.perf_counter()
        for batch in islice(in_order(data["train"], protocol.batch_size, protocol.seeds[0]), 64):
            start = time.perf_counter()
            yield batch
            times.append(time.perf_counter() - start)
            if sum(sizes) >= _SAMPLES or time.perf_counter() - began > _SECONDS:
                break

    reductions = {layer: [way.reduction for way in found] for layer, found in ways.items()}
    with frozen(network, seed=protocol.seeds[0]):
        found = run_split(
            network, some(), "train", reductions, protocol.inputs, read, protocol.mask_of, keep, context=context
        )
    # The first pass also pays for what happens once.
    typical = statistics.median(times[1:] or times)
    return _Trial(found.targets, {key: torch.cat(parts) for key, parts in kept.items()}, typical, sizes[0])


@dataclass(frozen=True)
class _FitTime:
    """Seconds of a layer's fits by its number of features, at one number of samples."""

    sizes: Sequence[int]
    seconds: Sequence[float]
    n: int

    @classmethod
    def of(
        cls,
        trial: _Trial,
        ways: Ways,
        sizes: Mapping[Layer, int],
        protocol: ProbeProtocol,
    ) -> _FitTime:
        if protocol.stream:
            return cls((), (), 1)
        complete = [
            layer
            for layer, found in ways.items()
            if all(
                len(trial.features.get((layer.name, w.reduction.description), ())) == len(trial.targets) for w in found
            )
        ]
        by_size = {sizes[layer]: layer for layer in complete}
        known = sorted(by_size)
        chosen = sorted({known[0], known[len(known) // 2], known[-1]}) if known else []
        seconds = []
        for size in chosen:
            try:
                seconds.append(_fit(by_size[size], ways[by_size[size]], trial, protocol))
            except (ValueError, RuntimeError):  # one class only among the few samples, say
                return cls((), (), 1)
        return cls(chosen, seconds, len(trial.targets))

    def __call__(self, size: int, n: int) -> float:
        if not self.sizes:
            return math.nan
        logarithm = np.interp(math.log(size), np.log(self.sizes), np.log(self.seconds))
        return float(np.exp(logarithm)) * n / self.n


def _fit(layer: Layer, ways: Sequence[FeatureWay], trial: _Trial, protocol: ProbeProtocol) -> float:
    labels = protocol.task.labels({"train": trial.targets})
    targets = labels.splits["train"]
    start = time.perf_counter()
    for way in ways:
        features = trial.features[layer.name, way.reduction.description].clone()
        standardiser = Standardiser.fit(features) if protocol.standardise else Standardiser.none(features)
        standardiser.apply_(features)
        spectrum = Spectrum.of(features)
        l2 = torch.tensor(protocol.l2_values(len(targets), protocol.task.n_classes(labels)), dtype=torch.float64)
        for solver in protocol.solvers:
            protocol.task.fit(solver, features, targets.to(features.device), labels, l2, spectrum)
    return (time.perf_counter() - start) * (1 + len(protocol.controls))
