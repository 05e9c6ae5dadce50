"""Probe one frozen network: record every layer, fit heads on train, choose on validation, read the test error once."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import cache, partial
from itertools import count, groupby
from typing import Any

import torch
from torch import Tensor, nn

from layerprobe.probing.batches import Data, check_splits, in_order, length
from layerprobe.probing.capture.freeze import frozen
from layerprobe.probing.capture.inputs import device_of
from layerprobe.probing.capture.layers import Layer, discover
from layerprobe.probing.capture.name_patterns import SHOWN, select
from layerprobe.probing.capture.token_axes import sequence_axes, token_masks
from layerprobe.probing.features.cache import AbstractSink, FeatureBank, Splits
from layerprobe.probing.features.oom import with_room
from layerprobe.probing.features.reducers import AbstractChannelReducer, FeatureWay, shape_text
from layerprobe.probing.features.token_reducers import AbstractTokenReducer
from layerprobe.probing.fingerprint import Fingerprint
from layerprobe.probing.fitting import Ways, feature_ways, features_of, fit_layer, measure
from layerprobe.probing.parallel import layers_in_parallel, parallel
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.recording import Context, Progress, Recording, record_split
from layerprobe.probing.records import LayerRecords
from layerprobe.probing.resources import DEFAULTS, Resources
from layerprobe.probing.selection import Path
from layerprobe.probing.solvers.solution import Status
from layerprobe.probing.solvers.tf32 import full_precision
from layerprobe.probing.streaming import TrainingMoments
from layerprobe.probing.targets import Labels, n_outputs
from layerprobe.probing.workspace import Budget, feature_budget, host_budget, workspace
from layerprobe.types import SPLITS, CheckpointInfo, LayerName, LayerResult, Split

log = logging.getLogger(__name__)

_MANY_SEEN = 0.5
"""Share of test samples whose type train has, below which a control task says little of what heads memorise."""


def probe_checkpoint(
    network: nn.Module,
    data: Data,
    protocol: ProbeProtocol,
    checkpoint: CheckpointInfo | None = None,
    *,
    resources: Resources = DEFAULTS,
    done: Collection[LayerName] = (),
    context: Context = nullcontext,
    on_progress: Progress = lambda stage, i, total: None,
) -> Iterator[LayerResult]:
    """Probe every layer of one frozen network.

    All splits are recorded first, every layer in the same forward pass; then each is fitted on train, selected on
    validation and measured on test: one after the other, and side by side where one does not fill the CPU. The network
    is left exactly as it was found.

    Args:
        network: Any network, on any device.
        data: The three splits.
        protocol: The sweep.
        checkpoint: Which frozen network this is.
        resources: What it may take.
        done: Layers to leave out because their results are kept already.
        context: Makes what the network's passes run in.
        on_progress: Told how far the work is.

    Yields:
        One result for each layer, in the order of depth. A layer that cannot be probed has the status `failed` and
        says why; the others go on.

    Raises:
        TypeError: Where a batch is not (input, target), or targets are not what the task predicts.
        ValueError: Where a split is missing or empty, train has nothing to learn, or a pattern matches no layer.
    """
    check_splits(data, needs_val=protocol.needs_val)
    first = first_batch(network, data, protocol, resources)
    ways = find_ways(network, first, protocol, context, done)
    if not ways:
        return
    samples, info = Fingerprint(), checkpoint or CheckpointInfo()
    allowed = budget(device_of(network), protocol, resources, ways, protocol.targets_of(first, "train"))
    kept = [split for split in SPLITS if data.get(split) is not None and not (protocol.stream and split == "train")]
    with closing(feature_bank(protocol, resources, allowed, {split: length(data[split]) for split in kept})) as bank:
        sink = TrainingMoments(bank, max(map(features_of, ways.values()))) if protocol.stream else bank
        recordings = record_splits(network, data, protocol, resources, ways, sink, on_progress, context, samples)
        labels = protocol.task.labels({split: recording.targets for split, recording in recordings.items()})
        variants = labels_of_controls(labels, recordings, protocol)
        together, workers = layers_in_parallel(
            {layer: features_of(ways[layer]) for layer in ways if layer.name not in bank.on_disk},
            {split: len(recording.targets) for split, recording in recordings.items()},
            n_outputs(recordings["train"].targets),
            protocol,
            device_of(network),
            bank.left,
        )

        def begun() -> Iterator[Layer]:
            for i, layer in enumerate(ways):
                on_progress("probe layers", i, len(ways))
                yield layer

        def fit(layer: Layer, splits: Splits) -> LayerResult:
            return probe_layer(layer, ways[layer], splits, recordings, variants, protocol, info)

        for small, layers in groupby(begun(), lambda layer: layer in together):
            for result in parallel(layers, lambda layer: sink.layer(layer.name), fit, workers if small else 1):
                yield replace(result, samples=samples.digest())
        on_progress("probe layers", len(ways), len(ways))


def first_batch(network: nn.Module, data: Data, protocol: ProbeProtocol, resources: Resources) -> Any:
    """The first training batch, read without moving a random generator."""
    with (
        frozen(network, seed=protocol.seeds[0]),
        closing(in_order(data["train"], resources.batch_size, protocol.seeds[0])) as batches,
    ):
        batch = next(batches, None)
    if batch is None:
        raise ValueError("The train split is empty. Probing needs samples in train, val and test.")
    return batch


def find_ways(
    network: nn.Module,
    first: Any,
    protocol: ProbeProtocol,
    context: Context = nullcontext,
    done: Collection[LayerName] = (),
) -> Ways:
    """The layers that a protocol asks for, and every way to make features of each.

    Args:
        network: The network.
        first: A training batch to find them on.
        protocol: The sweep.
        context: Makes what the network runs in.
        done: Layers to leave out.

    Returns:
        The ways of each layer, in the order of depth.

    Raises:
        ValueError: Where a pattern matches no layer.
    """
    inputs, sequence = protocol.inputs(first), dict[Layer, dict[int, str]]()
    with frozen(network, seed=protocol.seeds[0]), context():
        found = discover(
            network, inputs, granularity=protocol.granularity, include=protocol.layers, exclude=protocol.exclude
        )
        layers = [layer for layer in found if layer.name not in done]
        if layers and any(isinstance(reducer, AbstractTokenReducer) for reducer in protocol.reducers):
            sequence = sequence_axes(network, inputs, token_masks(inputs, protocol.mask_of(first)), layers)
    for reducer in protocol.reducers:
        if isinstance(reducer, AbstractChannelReducer):
            _check_channel_axes(reducer, found)
    return {layer: feature_ways(layer, protocol, sequence.get(layer, ())) for layer in layers}


def _check_channel_axes(reducer: AbstractChannelReducer, layers: Sequence[Layer]) -> None:
    """Warn of layers of which nothing says which axis holds their channels.

    Raises:
        ValueError: Where a pattern of channel axes matches no layer.
    """
    if isinstance(reducer.channel_axis, Mapping):
        select([layer.names for layer in layers], tuple(reducer.channel_axis), ())
    guessed = [
        layer for layer in layers if reducer.is_guess(layer.shape, reducer.axis_of(layer.names, layer.channel_axis))
    ]
    if guessed:
        shown = ", ".join(f"{layer.name} ({shape_text(layer.shape)})" for layer in guessed[:SHOWN])
        more = f" and {len(guessed) - SHOWN} more" if len(guessed) > SHOWN else ""
        _warn_once(
            f"Nothing that the network does says which axis of these layers holds the channels: {shown}{more}. "
            f"{reducer.name} takes the first of three axes and more, the last of two. Say it with "
            f"reducer.{reducer.name}.channel_axis={{PATTERN: AXIS}}, in Python channel_axis={{'PATTERN': AXIS}}."
        )


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


def budget(
    device: torch.device | None, protocol: ProbeProtocol, resources: Resources, ways: Ways, targets: Tensor
) -> Budget:
    """What probing may take: for features, what is allowed beside the fit of the largest layer.

    Args:
        device: Where the network is.
        protocol: The sweep.
        resources: What is allowed in all.
        ways: The layers, and how features are made of them.
        targets: Those of the first training batch.
    """
    widths = [way.reduction.n_features for found in ways.values() for way in found]
    fit = workspace(max(widths, default=0), n_outputs(targets), len(protocol.l2))
    fit += moment_bytes(ways) if protocol.stream else 0
    features = feature_budget(device, resources.max_memory, fit, 4 * len(targets) * sum(widths))
    return Budget(fit, features, host_budget(device, resources.max_memory))


def feature_bank(
    protocol: ProbeProtocol, resources: Resources, allowed: Budget, samples: Mapping[Split, int | None]
) -> FeatureBank:
    """Room for all features; of `samples`, see `FeatureBank`."""
    kept_as = None if protocol.spill_dtype is None else getattr(torch, protocol.spill_dtype)
    return FeatureBank(allowed.features, resources.spill_path, kept_as, allowed.host, samples)


def moment_bytes(ways: Ways) -> int:
    """What is kept of train in place of its features, where these are streamed: a matrix for each way."""
    return sum(8 * way.reduction.n_features**2 for found in ways.values() for way in found)


def record_splits(
    network: nn.Module,
    data: Data,
    protocol: ProbeProtocol,
    resources: Resources,
    ways: Ways,
    sink: AbstractSink,
    on_progress: Progress,
    context: Context = nullcontext,
    samples: Fingerprint | None = None,
) -> dict[Split, Recording]:
    """One pass over each split, for all layers and reducers together; `samples` takes in those of test."""
    reductions = {layer: [way.reduction for way in ways[layer]] for layer in ways}
    recordings: dict[Split, Recording] = {}
    for split in SPLITS:
        if data.get(split) is None:
            continue
        with (
            frozen(network, seed=protocol.seeds[0]),
            closing(in_order(data[split], resources.batch_size, protocol.seeds[0])) as read,
        ):
            batches = samples.watch(read) if samples is not None and split == "test" else read
            number = count(1)

            def on_batch(split: Split = split, number: Iterator[int] = number) -> None:
                on_progress(f"record {split}", next(number), None)

            recordings[split] = record_split(
                network,
                batches,
                split,
                reductions,
                protocol.inputs,
                protocol.targets_of,
                protocol.mask_of,
                sink,
                on_batch,
                context,
                protocol.keys_of if "control_task" in protocol.controls else None,
            )
    return recordings


def labels_of_controls(
    labels: Labels, recordings: Mapping[Split, Recording], protocol: ProbeProtocol
) -> dict[str, Labels]:
    """The true labels (`none`), and those of every control that is on."""
    variants, seed = {"none": labels}, protocol.seeds[0]
    if "shuffled" in protocol.controls:
        variants["shuffled"] = labels.shuffled(seed)
    if "control_task" in protocol.controls:
        variants["control_task"] = labels.by_type(_keys(recordings), seed)
    return variants


def _keys(recordings: Mapping[Split, Recording]) -> dict[Split, Tensor]:
    return {split: recording.keys for split, recording in recordings.items() if recording.keys is not None}


@full_precision()
def probe_layer(
    layer: Layer,
    ways: Sequence[FeatureWay],
    splits: Splits,
    recordings: Mapping[Split, Recording],
    labels: Mapping[str, Labels],
    protocol: ProbeProtocol,
    checkpoint: CheckpointInfo,
) -> LayerResult:
    """Fit on train, choose on validation, and only then look at test."""
    start = time.perf_counter() - sum(recording.seconds[layer.name] for recording in recordings.values())
    records = LayerRecords(layer, checkpoint, labels["none"], protocol)
    paths: dict[str, list[Path]] = {}

    def failed(message: str) -> LayerResult:
        return records.failed(paths, message, time.perf_counter() - start)

    for recording in recordings.values():
        if problem := recording.problems.get(layer.name):
            return failed(problem)
    try:
        val = splits["val"] if "val" in recordings else None
        paths, heads = fit_layer(splits["train"], val, ways, labels, protocol, layer.name)
        if "none" not in heads:
            return failed(_nothing_chosen(paths["none"]))
        test = {way: splits["test"](way.reduction) for way in {head.way for head in heads.values()}}
        found = {}
        for name, head in heads.items():
            read = partial(measure, head, targets=labels[name].splits["test"], task=protocol.task)
            found[name] = with_room(read, test[head.way], what=f"{layer.name}, test")
    except (RuntimeError, ArithmeticError, MemoryError) as error:
        return failed(f"{type(error).__name__}: {error}")
    if "control_task" in labels and (seen := _seen(_keys(recordings))) < _MANY_SEEN:
        note = f"selectivity: {seen:.0%} of the test samples are of a type that train has; see control_key"
        message = "; ".join(filter(None, (found["none"].message, note)))
        found["none"] = replace(found["none"], message=message)
    return records.measured(paths, heads["none"], found, time.perf_counter() - start)


def _nothing_chosen(paths: Sequence[Path]) -> str:
    """Why no head of a layer has an error."""
    if all(status in (Status.DIVERGED, Status.SKIPPED) for path in paths for status in path.solution.status):
        return "every head diverged"
    if any(path.solution.left_out is not None for path in paths):
        return (
            "no leave-one-out error is known: features and samples are both more than `largest`, or l2 is 0. Give "
            "a validation split, reduce the layer further, or take l2 above 0"
        )
    return "no head has a validation error"


def _seen(keys: Mapping[Split, Tensor]) -> float:
    return float(torch.isin(keys["test"], keys["train"]).double().mean())
