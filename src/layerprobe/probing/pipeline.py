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
from torch import nn

from layerprobe.probing.batches import Data, check_splits, in_order
from layerprobe.probing.capture.freeze import frozen
from layerprobe.probing.capture.inputs import device_of
from layerprobe.probing.capture.layers import Layer, discover
from layerprobe.probing.capture.name_patterns import SHOWN, select
from layerprobe.probing.capture.token_axes import sequence_axes, token_masks
from layerprobe.probing.features.cache import FeatureBank
from layerprobe.probing.features.oom import with_room
from layerprobe.probing.features.reducers import AbstractChannelReducer, shape_text
from layerprobe.probing.features.token_reducers import AbstractTokenReducer
from layerprobe.probing.fingerprint import Fingerprint
from layerprobe.probing.fitting import FeatureWay, Selected, Sweep, Ways, feature_ways, features_of, sweep_layer
from layerprobe.probing.parallel import side_by_side
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.recording import Context, Progress, Recording, record_split
from layerprobe.probing.records import failed, measured
from layerprobe.probing.refit import refit
from layerprobe.probing.resources import DEFAULTS, Resources
from layerprobe.probing.small_layers import small_layers
from layerprobe.probing.solvers.tf32 import full_precision
from layerprobe.probing.streaming import stream_checkpoint
from layerprobe.probing.targets import Labels, n_outputs
from layerprobe.probing.tasks.task import Measured
from layerprobe.probing.workspace import feature_budget, host_budget, workspace
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
    check_splits(data, chooses=protocol.chooses)
    first = first_batch(network, data, protocol, resources)
    ways = find_ways(network, first, protocol, context, done)
    if not ways:
        return
    samples = Fingerprint()
    if protocol.stream:
        info = checkpoint or CheckpointInfo()
        for result in stream_checkpoint(network, data, protocol, resources, ways, info, on_progress, context, samples):
            yield replace(result, samples=samples.digest())
        return
    bank = feature_bank(network, first, protocol, resources, ways)
    try:
        recordings = record_splits(network, data, protocol, resources, ways, bank, on_progress, context, samples)
        labels = protocol.task.labels({split: recording.targets for split, recording in recordings.items()})
        info, layers = checkpoint or CheckpointInfo(), list(ways)
        small, workers = small_layers(
            {layer: features_of(ways[layer]) for layer in layers if layer.name not in bank.on_disk},
            {split: len(recording.targets) for split, recording in recordings.items()},
            n_outputs(recordings["train"].targets),
            protocol,
            device_of(network),
            bank.left,
        )

        def begun() -> Iterator[int]:
            for i in range(len(layers)):
                on_progress("probe layers", i, len(layers))
                yield i

        def fit(i: int) -> LayerResult:
            return probe_layer(layers[i], ways[layers[i]], recordings, labels, protocol, info)

        for together, some in groupby(begun(), lambda i: layers[i] in small):
            for result in side_by_side(some, fit, workers if together else 1):
                bank.drop(result.record.layer)  # a process beside this one has dropped its own copy alone
                yield replace(result, samples=samples.digest())
        on_progress("probe layers", len(ways), len(ways))
    finally:
        bank.close()


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


def feature_bank(
    network: nn.Module, first: Any, protocol: ProbeProtocol, resources: Resources, ways: Ways
) -> FeatureBank:
    """Room for all features: in memory what the protocol allows beside the fit of the largest layer."""
    targets = protocol.targets_of(first, "train")
    sizes = [way.reduction.n_features for found in ways.values() for way in found] or [0]
    fit = workspace(max(sizes), n_outputs(targets), len(protocol.l2))
    device = device_of(network)
    budget = feature_budget(device, resources.max_memory, fit, 4 * len(targets) * sum(sizes))
    kept_as = None if protocol.spill_dtype is None else getattr(torch, protocol.spill_dtype)
    return FeatureBank(budget, resources.spill_path, kept_as, host_budget(device, resources.max_memory))


def record_splits(
    network: nn.Module,
    data: Data,
    protocol: ProbeProtocol,
    resources: Resources,
    ways: Ways,
    bank: FeatureBank,
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
                bank,
                on_batch,
                context,
                protocol.keys_of if "control_task" in protocol.controls else None,
            )
    return recordings


@full_precision()
def probe_layer(
    layer: Layer,
    ways: Sequence[FeatureWay],
    recordings: Mapping[Split, Recording],
    labels: Labels,
    protocol: ProbeProtocol,
    checkpoint: CheckpointInfo,
) -> LayerResult:
    """Fit on train, choose on validation, and only then look at test."""
    start = time.perf_counter() - sum(recording.seconds[layer.name] for recording in recordings.values())
    seed = protocol.seeds[0]
    variants, seen = {"none": labels}, 1.0
    if "shuffled" in protocol.controls:
        variants["shuffled"] = labels.shuffled(seed)
    if "control_task" in protocol.controls:
        keys = {split: recording.keys for split, recording in recordings.items() if recording.keys is not None}
        variants["control_task"] = labels.by_type(keys, seed)
        seen = float(torch.isin(keys["test"], keys["train"]).double().mean())
    sweeps: dict[str, Sweep] = {}

    def no_result(message: str) -> LayerResult:
        return failed(layer, checkpoint, labels, protocol.task, sweeps, message, time.perf_counter() - start, seed)

    try:
        for recording in recordings.values():
            if problem := recording.problems.get(layer.name):
                return no_result(problem)
        sweeps = sweep_layer(layer.name, ways, recordings["train"], recordings.get("val"), variants, protocol)
        for name, sweep in sweeps.items():
            if sweep.selected is not None and sweep.kept is not None:
                again = partial(refit, sweep.selected, labels=variants[name], protocol=protocol)
                sweep.selected = with_room(again, *sweep.kept, what=f"{layer.name}, once more")
                sweep.kept = None
        chosen = sweeps["none"].selected
        if chosen is None:
            return no_result("every head diverged")
        test = {way: recordings["test"].take(layer.name, way.reduction) for way in ways}

        def on_test(head: Selected, variant: Labels) -> Measured:
            measure = partial(head.measure, targets=variant.splits["test"], task=protocol.task)
            return with_room(measure, test[head.fit.way], what=f"{layer.name}, test")

        found = on_test(chosen, labels)
        errors = {
            name: on_test(sweep.selected, variants[name]).error
            for name, sweep in sweeps.items()
            if name != "none" and sweep.selected is not None
        }
        if seen < _MANY_SEEN:
            note = f"selectivity: {seen:.0%} of the test samples are of a type that train has; see control_key"
            found = replace(found, message="; ".join(filter(None, (found.message, note))))
    except (RuntimeError, ArithmeticError, MemoryError) as error:
        return no_result(f"{type(error).__name__}: {error}")
    finally:
        for recording in recordings.values():
            recording.drop(layer.name)
    seconds = time.perf_counter() - start
    return measured(
        layer, checkpoint, labels, protocol.task, sweeps, chosen, found, errors, seconds, protocol.population
    )
