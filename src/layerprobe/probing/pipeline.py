"""Pipeline of a frozen network: record every layer, fit on train, choose on validation, read the test error once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby, product

import torch
from torch import Tensor, nn

from layerprobe.probing.batches import Data, check_splits, length, split_names, test_sets
from layerprobe.probing.best_of_reducers import best_of_each, read_tests
from layerprobe.probing.budget import Budget, budget, feature_cache, is_weighted
from layerprobe.probing.capture.call_arguments import autocast_of, device_of
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.capture.hooks import Context
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.capture.survey import log_left_out
from layerprobe.probing.data_fingerprint import Fingerprint
from layerprobe.probing.discovery import Discovery, discover_layers
from layerprobe.probing.feature_keeper import FeatureKeeper
from layerprobe.probing.features.cache import AbstractSink, FeatureCache, Splits
from layerprobe.probing.features.reducers import FeatureWay
from layerprobe.probing.fitting import Ways, check_selection, features_of, fit_layer, measure, unfitted_features
from layerprobe.probing.head_path import HeadPath
from layerprobe.probing.head_scores import score_test_sets
from layerprobe.probing.layer_analyses import analyse
from layerprobe.probing.parallel.exchange import AbstractExchange
from layerprobe.probing.parallel.process_pool import layers_in_parallel, parallel
from layerprobe.probing.passes import Passes, Progress
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.record_builder import LayerRecords
from layerprobe.probing.resources import DEFAULTS, Resources
from layerprobe.probing.solvers.precision import full_precision
from layerprobe.probing.solvers.solution import Status
from layerprobe.probing.split_reader import Recording
from layerprobe.probing.streamed_moments import TrainingMoments
from layerprobe.probing.targets import Labels, n_outputs
from layerprobe.probing.tasks.task import Measured
from layerprobe.types import CheckpointInfo, LayerName, LayerResult, Split

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
    discovery: Discovery | Callable[[], Discovery | None] | None = None,
    done: Collection[LayerName] = (),
    context: Context = nullcontext,
    on_progress: Progress = lambda stage, i, total: None,
    read: Fingerprint | None = None,
    allowed: Budget | None = None,
    exchange: AbstractExchange | None = None,
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
        discovery: What a plan has found out about this network and these data, or what makes a plan where the network
            has to run; by default it is found out here.
        done: Layers to leave out because their results are kept already.
        context: Makes what the network's passes run in.
        on_progress: Told how far the work is.
        read: Takes in the samples of all splits while they are recorded, if it is of interest whether they are the
            same elsewhere.
        allowed: Bytes that features may take; by default what `resources` leave beside the fit of the largest layer.
            Given where the features' room itself is to be set: `max_memory` counts the fit in, whose bytes hinge on
            the layers.
        exchange: Shares the passes with the processes that probe the other layers of `discovery`; not with kept
            features.

    Yields:
        One result for each layer, in the order of depth. A layer that cannot be probed has the status `failed` and
        says why; the others go on.

    Raises:
        TypeError: Where a batch is not (input, target), or targets are not what the task predicts.
        ValueError: Where a split is missing or empty, train has nothing to learn, or a pattern matches no layer.
    """
    check_splits(data, needs_val=protocol.needs_val)
    if len(tests := test_sets(data)) > 1 and (both := set(tests) & {analysis.name for analysis in protocol.analyses}):
        raise ValueError(
            f"{min(both)!r} is a test set and an analysis, whose figures go by the same name. Rename the test set."
        )
    info = checkpoint or CheckpointInfo()
    with ExitStack() as until_fitted:
        with freeze(network, context=context) as frozen:
            with context():
                autocast = autocast_of(frozen.device)
            keeper = FeatureKeeper.open(frozen, data, protocol, resources, context)
            samples = {name: Fingerprint() for name in tests}
            passes = Passes(frozen, data, protocol, resources, on_progress, samples, read)
            if keeper is not None and keeper.knows_network:
                keeper.known = passes.read()
            found = None if callable(discovery) else discovery
            found = found or (keeper.discovery(protocol, done) if keeper is not None else None)
            found = found or (discovery() if callable(discovery) else None)
            found = found or discover_layers(frozen, data, protocol, resources, done)
            ways = found.ways
            log_left_out({**found.survey.left_out, **_without_positions(ways, protocol)})
            if not ways:
                return
            allowed = allowed or budget(frozen.device, protocol, resources, found)
            kept = {split: length(data[split]) for split in split_names(data)}
            if protocol.stream:
                kept.pop("train")
            cache = until_fitted.enter_context(closing(feature_cache(protocol, resources, allowed, kept)))
            sink: AbstractSink = cache
            if protocol.stream:
                sink = TrainingMoments(cache, max(map(features_of, ways.values())), weighted=is_weighted(protocol))
            recordings: Mapping[Split, Recording]
            if keeper is not None:
                recordings = passes.found_or_recorded(keeper, found, cache)
            else:
                recordings = passes.record(found.every or ways, sink, exchange=exchange)
        recordings = {
            split: replace(one, samples=samples[split].digest() if split in samples else "", autocast=autocast)
            for split, one in recordings.items()
        }
        recorded = _Recorded(ways, cache, sink, recordings, keeper)
        yield from _fit_layers(recorded, protocol, info, device_of(network), on_progress)


@dataclass(frozen=True)
class _Recorded:
    """What the passes over the splits leave behind: all that heads are fitted to, once the network is let go."""

    ways: Ways
    cache: FeatureCache
    sink: AbstractSink
    recordings: Mapping[Split, Recording]
    keeper: FeatureKeeper | None


def _fit_layers(
    recorded: _Recorded,
    protocol: ProbeProtocol,
    info: CheckpointInfo,
    device: torch.device | None,
    on_progress: Progress,
) -> Iterator[LayerResult]:
    """Fit one layer after the other, and side by side those that do not fill the CPU."""
    ways, cache, recordings, keeper = recorded.ways, recorded.cache, recorded.recordings, recorded.keeper
    targets = {split: recording.targets for split, recording in recordings.items()}
    check_test_sets(targets)
    labels = protocol.task.labels(targets)
    check_selection(labels, protocol)
    variants = labels_of_controls(labels, recordings, protocol)
    together, workers = layers_in_parallel(
        {layer: features_of(ways[layer]) for layer in ways if layer.name not in cache.on_disk},
        {split: len(found) for split, found in targets.items()},
        n_outputs(targets["train"]),
        protocol,
        device,
        cache.left,
        {layer: unfitted_features(found) for layer, found in ways.items()},
    )

    def begun() -> Iterator[Layer]:
        for i, layer in enumerate(ways):
            on_progress("probe layers", i, len(ways))
            yield layer

    def fit(layer: Layer, splits: Splits) -> LayerResult:
        try:
            result = probe_layer(layer, ways[layer], splits, recordings, variants, protocol, info)
            if keeper is not None:
                result = keeper.with_train_features(result, layer, ways[layer], recordings["train"])
            return result
        except Exception as error:  # a fault of the program, whose traceback does not say which layer shows it
            error.add_note(f"in layer {layer.name} of {info.name}")
            raise

    for small, layers in groupby(begun(), lambda layer: layer in together):
        yield from parallel(layers, lambda layer: recorded.sink.layer(layer.name), fit, workers if small else 1)
    on_progress("probe layers", len(ways), len(ways))


def _without_positions(ways: Ways, protocol: ProbeProtocol) -> dict[LayerName, str]:
    """Find layers that have no positions, where an analysis asks for them."""
    reason = f"has no positions for {', '.join(one.name for one in protocol.analyses if one.positions)}"
    return {layer.name: reason for layer, found in ways.items() if protocol.positions and not unfitted_features(found)}


def labels_of_controls(
    labels: Labels, recordings: Mapping[Split, Recording], protocol: ProbeProtocol
) -> dict[str, Labels]:
    """Make the true labels (`none`), and those of every control that is on."""
    variants, seed = {"none": labels}, protocol.seeds[0]
    if "shuffled" in protocol.controls:
        variants["shuffled"] = labels.shuffled(seed)
    if "control_task" in protocol.controls:
        variants["control_task"] = labels.by_type(_keys(recordings), seed)
    return variants


def _keys(recordings: Mapping[Split, Recording]) -> dict[Split, Tensor]:
    return {split: recording.keys for split, recording in recordings.items() if recording.keys is not None}


def check_test_sets(targets: Mapping[Split, Tensor]) -> None:
    """Refuse a test set that no head fitted on train can be read on; say where one has classes that train has not.

    Raises:
        ValueError: Naming the test set, what it has and what train has.
    """
    train, tests = targets["train"], test_sets(targets)
    for name in tests:
        found = targets[name]
        if found.shape[1:] != train.shape[1:]:
            raise ValueError(
                f"The test set {name!r} has {found.shape[1:].numel()} labels or values for each sample, and train has "
                f"{train.shape[1:].numel()}. A head is read on what it was fitted to: give targets of the same kind."
            )
        if found.ndim > 1 or len(tests) == 1:
            continue
        known = torch.isin(found, train)
        other = ", ".join(map(str, found[~known].unique().tolist()[:6]))
        if not known.any():
            raise ValueError(
                f"The test set {name!r} has no sample of a class that train has (it has {other}; train has "
                f"{', '.join(map(str, train.unique().tolist()[:6]))}). Number its classes as those of train."
            )
        if not known.all():
            n = int((~known).sum())
            log.warning(
                "%s of the %s samples of the test set %r are of classes that train does not have (%s): every head "
                "gets them wrong.", f"{n:,}", f"{len(found):,}", name, other
            )  # fmt: skip


@torch.autocast("cuda", enabled=False)
@torch.autocast("cpu", enabled=False)
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
    """Fit on train, choose on validation, and only then look at the test sets."""
    start = time.perf_counter() - sum(recording.seconds.get(layer.name, 0.0) for recording in recordings.values())
    tests = test_sets(recordings)
    records = LayerRecords(layer, checkpoint, labels["none"], protocol, {name: recordings[name] for name in tests})
    paths: dict[str, list[HeadPath]] = {}

    def failed(message: str) -> LayerResult:
        return records.failed(paths, message, time.perf_counter() - start)

    for recording in recordings.values():
        if problem := recording.problems.get(layer.name):
            return failed(problem)
    try:
        val = splits["val"] if "val" in recordings else None
        paths, fitted = fit_layer(splits["train"], val, ways, labels, protocol, layer.name)
        if "none" not in fitted:
            return failed(_nothing_chosen(paths["none"]))
        selected = fitted["none"]
        of_reducers = best_of_each(paths["none"]) if protocol.each_reducer else {}
        of_way = {head.way for head in (*(each.head for each in fitted.values()), *of_reducers.values())}
        features = {name: {way: splits[name](way.reduction) for way in of_way} for name in tests}
        found: dict[Split, dict[str, Measured]] = {name: {} for name in tests}
        for (test_set, made), (name, each) in product(features.items(), fitted.items()):
            targets, what = labels[name].splits[test_set], f"{layer.name}, {test_set}"
            found[test_set][name] = measure(each.head, made[each.head.way], targets, protocol, what)
        by_reducer = read_tests(of_reducers, features, labels["none"], protocol, layer.name)
        read_on = {
            name: (features[name][selected.head.way], labels["none"].splits[name], found[name]["none"])
            for name in tests
        }
        lost = next(filter(None, (each.no_positions.get(layer.name) for each in recordings.values())), "")
        positions = {
            way.reduction.positions: {split: splits[split](way.reduction) for split in recordings}
            for way in ways if not (way.reduction.fitted or lost)
        }  # fmt: skip
        metrics, scores = score_test_sets(selected.head, read_on, recordings, labels["none"], protocol, layer.name)
    except (RuntimeError, ArithmeticError, MemoryError) as error:
        return failed(f"{type(error).__name__}: {error}")
    first = found[tests[0]]
    if "control_task" in labels and (seen := _seen(_keys(recordings), tests[0])) < _MANY_SEEN:
        note = f"selectivity: {seen:.0%} of the test samples are of a type that train has; see control_key"
        first["none"] = replace(first["none"], message="; ".join(filter(None, (first["none"].message, note))))
    seconds = time.perf_counter() - start
    asked, predictors = analyse(selected, read_on, positions, lost, labels["none"], protocol, layer.name)
    analyses = {"": (by_reducer, ""), "selected": (metrics, ""), **asked}
    references = records.references(predictors, selected.head, ways)
    measured = records.measured(paths, selected.head, found, analyses, seconds)
    return replace(measured, scores=scores, references=references)


def _nothing_chosen(paths: Sequence[HeadPath]) -> str:
    """Say why no head of a layer has an error."""
    if all(status in (Status.DIVERGED, Status.SKIPPED) for path in paths for status in path.solution.status):
        return "every head diverged"
    if any(path.solution.left_out is not None for path in paths):
        return (
            "no leave-one-out error is known: features and samples are both more than `largest`, or l2 is 0. Give "
            "a validation split, reduce the layer further, or take l2 above 0"
        )
    return f"no head has a validation {paths[0].selection}"


def _seen(keys: Mapping[Split, Tensor], test_set: Split) -> float:
    return float(torch.isin(keys[test_set], keys["train"]).double().mean())
