"""Pilot of a probe: a few batches recorded, and a few layers fitted to a few of their samples, all of it timed."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from scipy.optimize import nnls
from torch import Tensor

from layerprobe.probing.activation_recorder import ActivationRecorder
from layerprobe.probing.batches import Data, length, reshuffled
from layerprobe.probing.budget import Budget, feature_cache
from layerprobe.probing.capture.freeze import Frozen
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.features.cache import FeatureCache, Key
from layerprobe.probing.features.row_blocks import blocks
from layerprobe.probing.fitting import Ways, fitted_features
from layerprobe.probing.pipeline import labels_of_controls, probe_layer
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.probing.split_reader import Recording
from layerprobe.probing.targets import Labels
from layerprobe.types import CheckpointInfo, LayerName, Split

_RECORDED = 512
"""Samples to record."""

_RECORD_SECONDS = 3.0
"""Seconds of recording after which no other batch is begun."""

_FITTED = 256
"""Samples to fit to, and half of them: no worse than 512 and 128 or 256 of them, in half the time."""

_FIT_SECONDS = 1.0
"""Seconds of fits after which no other layer is begun; twice as many foretell little better."""

_SHARE = 1 / 16
"""Share of the training samples, and of the seconds that fits are foretold to take, beyond which a pilot does no more:
a plan of a short probe is worth little of its time."""

_FITS = 6
"""Fits that are made in any case: twice as many as the time of an evaluation has unknowns."""

_GOLDEN = 0.618034
"""Multiples of the golden ratio, without their whole parts, lie apart from each other however many they are."""


@dataclass(frozen=True)
class Sample:
    """A few training batches, drawn at random and recorded.

    Targets are on the CPU, and keys are the types of samples that the control task asks for. Seconds are those of one
    sample: `seconds` to load it, pass it through the network and reduce it, `reduce_seconds` to reduce each layer.
    """

    features: Mapping[Key, Float[Tensor, "n d"]]
    targets: Shaped[Tensor, "n ..."]
    keys: Int[Tensor, " n"] | None
    problems: Mapping[LayerName, str]
    seconds: float
    reduce_seconds: Mapping[LayerName, float]


def record_sample(frozen: Frozen, data: Data, protocol: ProbeProtocol, resources: Resources, ways: Ways) -> Sample:
    """Record a few training batches as probing does."""
    times: list[float] = []
    sizes: list[int] = []
    n = length(data["train"])
    enough = _RECORDED if n is None else min(_RECORDED, int(_SHARE * n))
    reductions = {layer: [way.reduction for way in found] for layer, found in ways.items()}
    with (
        frozen.fresh(protocol.seeds[0]),
        closing(reshuffled(data["train"], resources.batch_size, protocol.seeds[0])) as batches,
        closing(FeatureCache(sys.maxsize)) as cache,
        ActivationRecorder(frozen, reductions, protocol, cache, "train") as record,
    ):
        start = time.perf_counter()
        for batch in batches:
            record(batch)
            times.append(time.perf_counter() - start - sum(times))
            sizes.append(len(record.recording.targets) - sum(sizes))
            if len(times) > 1 and (sum(sizes) >= enough or sum(times) > _RECORD_SECONDS):
                break
        recording = record.recording
        keys: list[Key] = [
            (layer.name, "train", reduction.description)
            for layer, found in reductions.items()
            if layer.name not in recording.problems
            for reduction in found
            if reduction.fitted
        ]
        features = {key: torch.cat(list(blocks(cache.take(key)))) for key in keys}
    # The first batch also pays for what happens once, and the last may be short.
    typical = statistics.median(t / n for t, n in list(zip(times, sizes, strict=True))[1:] or [(times[0], sizes[0])])
    scale = typical / sum(times)
    return Sample(
        features,
        recording.targets,
        recording.keys,
        recording.problems,
        typical,
        {layer.name: scale * recording.seconds[layer.name] for layer in ways},
    )


def fit_seconds(
    sample: Sample,
    ways: Ways,
    protocol: ProbeProtocol,
    resources: Resources,
    samples: Mapping[Split, int],
    outputs: int,
    on_disk: Collection[LayerName],
    threads: Callable[[Layer, int], int],
) -> dict[Layer, float]:
    """Say how long it takes to fit and measure the heads of each layer, without analyses, from a few small fits.

    A few layers, of every width, are fitted to few samples and to twice as many. The time of one evaluation of the
    heads, over the n samples and d features of a layer, is taken to be a + b·n + c·n·d, with a, b and c of all these
    fits together; a layer takes as many evaluations as it did, one that was not fitted as many as those of its width.
    Layers `on_disk` are read from there in every pass.
    """
    width = {layer: fitted_features(found) for layer, found in ways.items()}
    by_width = sorted((layer for layer in ways if layer.name not in sample.problems), key=lambda layer: -width[layer])
    spread = [by_width[i] for i in sorted(range(len(by_width)), key=lambda i: i * _GOLDEN % 1)]
    most = min(_FITTED, len(sample.targets))
    small = [_Small(sample, protocol, resources, samples, n) for n in sorted({min(most, max(most // 2, 2)), most})]
    if spread:
        small[0].fit(spread[-1], ways, on_disk)  # the first fit of a process also pays for what happens once
    # A sample may lack classes; what is done for each sample is done for each class.
    classes, n = max(1.0, outputs / len(small[-1].labels.outputs)), samples["train"]
    evaluations: dict[Layer, int] = {}
    sizes: list[tuple[float, int, int]] = []
    each: list[float] = []

    def predicted() -> dict[Layer, float]:
        (a, b, c), _ = nnls(np.array(sizes), np.array(each))
        widths = sorted({width[layer] for layer in evaluations})
        typical = [statistics.fmean(e for layer, e in evaluations.items() if width[layer] == d) for d in widths]
        return {
            layer: float(
                evaluations.get(layer, np.interp(width[layer], widths, typical))
                * (a + (b + c * width[layer]) * n * classes * threads(layer, most) / threads(layer, n))
            )
            for layer in ways
        }

    start = time.perf_counter()
    for layer in [*spread, *spread]:  # a second time where there is time for it, since times vary
        for fitted in small:
            seconds, steps = fitted.fit(layer, ways, on_disk)
            if steps:
                sizes.append((1.0, fitted.n, fitted.n * width[layer]))
                each.append(seconds / steps)
                evaluations[layer] = steps
        taken = time.perf_counter() - start
        if taken > _FIT_SECONDS or (len(sizes) >= _FITS and taken > _SHARE * sum(predicted().values())):
            break
    return predicted() if sizes else dict.fromkeys(ways, 0.0)


class _Small:
    """Fits to n of the recorded samples, and to as many of the other splits as they have of all."""

    def __init__(
        self, sample: Sample, protocol: ProbeProtocol, resources: Resources, samples: Mapping[Split, int], n: int
    ) -> None:
        self.sample, self.resources, self.n = sample, resources, n
        self.protocol = replace(protocol, stream=False, analyses=())
        self.sizes = {split: min(n, max(2, n * size // samples["train"])) for split, size in samples.items()}
        self.labels = self._labels()

    def fit(self, layer: Layer, ways: Ways, on_disk: Collection[LayerName]) -> tuple[float, int]:
        """Fit a layer's heads and measure them.

        Returns:
            The seconds and the evaluations that it took; no evaluation where it failed.
        """
        fitted = [way for way in ways[layer] if way.reduction.fitted]
        allowed = Budget(0, 0 if layer.name in on_disk else sys.maxsize, 0)
        with closing(feature_cache(self.protocol, self.resources, allowed, self.sizes)) as cache:
            recordings: dict[Split, Recording] = {}
            for split, n in self.sizes.items():
                for way in fitted:
                    what = way.reduction.description
                    cache.append((layer.name, split, what), self.sample.features[layer.name, "train", what][:n].clone())
                keys = None if self.sample.keys is None else self.sample.keys[:n]
                recordings[split] = Recording(self.sample.targets[:n], cache.problems, {layer.name: 0.0}, keys)
            labels = labels_of_controls(self.labels, recordings, self.protocol)
            start = time.perf_counter()
            with cache.layer(layer.name) as splits:
                found = probe_layer(layer, fitted, splits, recordings, labels, self.protocol, CheckpointInfo())
            return time.perf_counter() - start, sum(head.iterations for head in found.path)

    def _labels(self) -> Labels:
        targets = {split: self.sample.targets[:n] for split, n in self.sizes.items()}
        try:
            return self.protocol.task.labels(targets)
        except ValueError:
            if self.n < 2:  # there is one training sample, and the message is true of all
                raise
            # Few samples may be all alike where many are not: two values in turn stand for theirs.
            return self.protocol.task.labels({split: _in_turn(values) for split, values in targets.items()})


def _in_turn(targets: Tensor) -> Tensor:
    values = (torch.arange(len(targets)) % 2).to(targets.dtype)
    return values.view(-1, *(1 for _ in targets.shape[1:])).expand(targets.shape)
