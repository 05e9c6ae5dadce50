"""Keeper of features: finds those of a network and its data that an earlier probe has kept, and keeps new ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerprobe.probing.activation_recorder import WITHOUT_DOUBLE, ActivationRecorder
from layerprobe.probing.batches import Data, reads_again
from layerprobe.probing.capture.batch_axis import BatchAxis
from layerprobe.probing.capture.content_hash import Named, NoContentHashError, content_hash
from layerprobe.probing.capture.freeze import Frozen
from layerprobe.probing.capture.global_flags import PRECISION
from layerprobe.probing.capture.hooks import Context, Site
from layerprobe.probing.capture.layers import Layer, Tap
from layerprobe.probing.capture.survey import Survey
from layerprobe.probing.discovery import Discovery, discovered
from layerprobe.probing.features.cache import FeatureCache
from layerprobe.probing.features.feature_store import FeatureStore, FeatureStoreError
from layerprobe.probing.features.reducers import FeatureWay, Reduction, shape_text
from layerprobe.probing.features.row_blocks import placed_blocks
from layerprobe.probing.fitting import Ways
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.probing.split_reader import Contents, Recording
from layerprobe.types import SPLITS, LayerName, LayerResult, Split

log = logging.getLogger("layerprobe")

_PROBLEM = "problem"
_SAMPLES = "samples"
_OF_DEVICE = {"cpu": ("fp32_precision", "mkldnn."), "cuda": ("cuda.", "cudnn.")}
"""How the flags of `torch.backends` begin that say how exactly a device reckons."""


class DataChangedError(Exception):
    """A split has given other inputs than when it was read before."""


class FeatureKeeper:
    """What is kept of one network, given by its hash and called `name` in lists, for one sweep.

    Features are found by all that they are made of: the network (its weights, structure and code, the device and the
    number format), every value that it is called with and the order of the samples, the split, the layer, the reduction
    and, where it is by tokens, their mask. Targets, controls, heads, seeds of what is not random and the number of
    samples at a time have no part in it.

    Attributes:
        known: The splits, where they have been read without the network to find what is kept.
    """

    def __init__(self, store: FeatureStore, network: str, name: str, device: torch.device | None) -> None:
        self._store, self._network, self._name = store, network, name
        self._device = torch.device("cpu") if device is None or device.type in WITHOUT_DOUBLE else device
        self.known: Mapping[Split, Recording] = {}
        self._made: dict[Reduction, str] = {}
        self._code: Named = {}
        self._writes = True
        self._said: set[str] = set()

    @classmethod
    def open(
        cls, frozen: Frozen, data: Data, protocol: ProbeProtocol, resources: Resources, context: Context
    ) -> FeatureKeeper | None:
        """Open the store; where nothing can be kept, say why, and go on without."""
        if resources.keep_path is None:
            return None
        problem = _not_kept(data, protocol)
        try:
            store = FeatureStore(resources.keep_path)
            network = "" if problem else content_hash(frozen.network, _numbers(frozen.device, context))
        except (FeatureStoreError, NoContentHashError) as error:
            problem = str(error)
        except OSError as error:
            problem = f"{resources.keep_path} cannot be read ({error.strerror})"
        if problem:
            log.warning("Features are not kept: %s", problem)
            return None
        return cls(store, network, type(frozen.network).__qualname__, frozen.device)

    @property
    def knows_network(self) -> bool:
        """Whether anything is kept of the network."""
        return self._store.knows(self._network)

    def discovery(self, protocol: ProbeProtocol, done: Collection[LayerName]) -> Discovery | None:
        """Return what is known of the network's layers; None where that is not all.

        Raises:
            ValueError: A pattern matches no layer.
        """
        train = self.known.get("train")
        if train is None or train.contents is None:
            return None
        known = self._store.find_text(self._layers_file(protocol.granularity, train.contents))
        if known is None:
            return None
        try:
            survey = Survey(known["granularity"], tuple(map(_layer, known["layers"])), known["left_out"])
            sequence = {
                name: {int(axis): mask for axis, mask in axes.items()}
                for name, axes in known["sequence"].get(train.contents.masks, {}).items()
            }
        except (KeyError, TypeError, AttributeError):
            return None
        return discovered(survey, sequence, train.targets[: train.first], protocol, done)

    def keep_discovery(self, found: Discovery, contents: Contents | None) -> None:
        """Keep what has been found out about the network's layers."""
        if contents is None:
            return
        file = self._layers_file(found.survey.granularity, contents)
        sequences = (self._store.find_text(file) or {}).get("sequence")
        before = (sequences or {}).get(contents.masks, {})
        after = before | {name: {str(i): mask for i, mask in axes.items()} for name, axes in found.sequence.items()}
        if not self._writes or (sequences is not None and after == before):
            return
        content = {
            "granularity": found.survey.granularity,
            "layers": [asdict(layer) for layer in found.survey.layers],
            "left_out": dict(found.survey.left_out),
            "sequence": (sequences or {}) | {contents.masks: after},
        }
        with self._writing():
            self._store.keep_text(file, content)

    def load(self, ways: Ways, cache: FeatureCache) -> tuple[Ways, dict[Split, Recording]]:
        """Hand the features that are kept to the cache, layer by layer, those of all splits or none.

        Returns:
            The layers that are still to be recorded, and of each split what recording the others left behind.
        """
        if not self.known or not all(
            read.contents is not None and read.contents.inputs for read in self.known.values()
        ):
            return ways, {}
        missing: dict[Layer, Sequence[FeatureWay]] = {}
        problems: dict[Split, dict[LayerName, str]] = {split: {} for split in self.known}
        seconds: dict[LayerName, float] = {}
        for layer, found in ways.items():
            start = time.perf_counter()
            if not self._can_tell(found):
                missing[layer] = found
                continue
            kept = {
                (split, way.reduction.description): self._store.find(self._file(split, read, layer, way.reduction))
                for split, read in self.known.items()
                for way in found
            }
            known = {split: about[_PROBLEM] for (split, _), (_, about) in _there(kept) if _PROBLEM in about}
            if not all(_fits(entry, self.known[split]) for (split, _), entry in _there(kept)):
                missing[layer] = found  # recorded, it says that inputs and targets differ in number
                continue
            if known:
                for split, problem in known.items():
                    problems[split][layer.name] = problem
            elif None not in kept.values():
                for (split, description), (features, _) in _there(kept):
                    targets = self.known[split].targets
                    for place, block in placed_blocks(features):
                        cache.append((layer.name, split, description), block.to(self._device), targets[place])
            else:
                missing[layer] = found
                continue
            seconds[layer.name] = time.perf_counter() - start
        n = len(ways) - len(missing)
        if n:
            rest = f"; {len(missing)} are recorded" if missing else ", and the network does not run"
            log.info("The features of %d layers are in %s%s.", n, self._store.directory, rest)
        return missing, {
            split: replace(read, problems=problems[split] | cache.problems, seconds=seconds if split == "train" else {})
            for split, read in self.known.items()
        }

    def keep(self, ways: Ways, cache: FeatureCache, split: Split, record: ActivationRecorder) -> None:
        """Keep the features of a split that has been recorded.

        Raises:
            DataChangedError: The samples are not those that were read before.
        """
        recording, unsteady, lasting = record.recording, record.unsteady, record.lasting
        contents = recording.contents
        if contents is None:
            self._stop(f"what the network is called with in the {split} split cannot be told from other inputs")
            return
        before = self.known.get(split)
        if before is not None and before.contents != contents:
            raise DataChangedError(
                f"the {split} split gives other inputs, or in another order, each time it is read: nothing says which "
                "samples kept features belong to. Leave out random transforms and shuffling in the data set itself"
            )
        for layer, found in ways.items():
            if reason := unsteady.get(layer.name):
                self._say(f"Features are not kept of some layers, such as {layer.name}: {reason}.")
                continue
            wanted = [way for way in found if way.reduction.fitted or layer.name not in recording.no_positions]
            for way in wanted if self._can_tell(found) else ():
                problem = lasting.get(layer.name)
                rows = cache.rows((layer.name, split, way.reduction.description))
                if not self._writes or (rows is None and problem is None):
                    continue
                about = self._about(split, layer, way.reduction, recording)
                with self._writing():
                    self._store.keep(
                        self._file(split, recording, layer, way.reduction),
                        torch.empty(0, 0) if rows is None else rows,
                        about if problem is None else about | {_PROBLEM: problem},
                    )

    def with_train_features(
        self, result: LayerResult, layer: Layer, ways: Sequence[FeatureWay], train: Recording
    ) -> LayerResult:
        """Tell the references of a layer that need its training features where these are kept."""
        made = {way.reduction.description: way.reduction for way in ways}
        references = dict(result.references)
        for name, reference in references.items():
            reduction = made[reference.reduction]
            if reference.train_features is None or train.contents is None or reduction not in self._made:
                continue
            file = self._file("train", train, layer, reduction)
            if file.exists():
                references[name] = replace(reference, train_features=str(file.absolute()))
        return replace(result, references=references)

    def _can_tell(self, ways: Sequence[FeatureWay]) -> bool:
        """Tell whether something says what the reducers of a layer do; else they are not kept."""
        try:
            for way in ways:
                if way.reduction not in self._made:
                    self._made[way.reduction] = content_hash(way.reduction, named=self._code)
        except NoContentHashError as error:
            self._say(f"Features made by {type(way.reducer).__name__} are not kept: {error}.")
            return False
        return True

    def _layers_file(self, granularity: str, train: Contents) -> Path:
        # The shapes in it are those of the first batch, and only what is reduced by tokens may be of another.
        inputs = train.inputs if train.masks else train.padded
        return self._store.file(self._network, "layers", granularity, inputs, kind="json")

    def _file(self, split: Split, read: Recording, layer: Layer, reduction: Reduction) -> Path:
        assert read.contents is not None
        contents = (read.contents.inputs, read.contents.masks) if reduction.axes else (read.contents.padded, "")
        role = split if split in SPLITS else "test"  # a test set's name says nothing of its samples
        address = (role, *contents, layer.name, shape_text(layer.shape), self._made[reduction])
        return self._store.file(self._network, *address)

    def _about(self, split: Split, layer: Layer, reduction: Reduction, recording: Recording) -> dict[str, str]:
        assert recording.contents is not None
        return {
            "network": self._name,
            "layer": layer.name,
            "split": split,
            "reduction": reduction.description,
            _SAMPLES: str(len(recording.targets)),
            "inputs": recording.contents.inputs,
        }

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._stop(
                f"{self._store.directory} cannot be written ({error.strerror or error}). What is there is found all "
                "the same, and the probe goes on"
            )

    def _stop(self, reason: str) -> None:
        self._writes = False
        self._say(f"Features are not kept from here on: {reason}.")

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.warning(message)


def _not_kept(data: Data, protocol: ProbeProtocol) -> str:
    """Say why nothing that a sweep makes of these data can be kept; empty where it can."""
    once = [split for split, source in data.items() if source is not None and not reads_again(source)]
    if once:
        return (
            f"the {once[0]} split can only be iterated, and nothing says whether it gives the same samples in the same "
            "order again. Give a DataLoader over a data set with a length, or a pair of tensors."
        )
    if protocol.stream:
        return "stream=true makes no features of train. Set stream=false."
    if protocol.spill_dtype is not None:
        return f"spill_dtype={protocol.spill_dtype} rounds those that go to disk. Leave it out."
    return ""


def _numbers(device: torch.device | None, context: Context) -> dict[str, Any]:
    """List what the values of a pass depend on besides the network and its inputs: where it runs, and how precisely."""
    kinds = sorted({"cpu", "cpu" if device is None else device.type})
    with context():
        found: dict[str, Any] = {
            kind: torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None for kind in kinds
        }
        found["default"] = torch.get_default_dtype()
        found["matmul"] = _read(torch.get_float32_matmul_precision)
        for name in (name for kind in kinds for name in PRECISION if name.startswith(_OF_DEVICE.get(kind, ()))):
            found[name] = _read(partial(attrgetter(name), torch.backends))
    return found


def _read(get: Callable[[], Any]) -> Any:
    """Read the value of a flag; some may be missing, and some of torch's refuse once newer ones are set."""
    try:
        return get()
    except (RuntimeError, AttributeError):
        return "unreadable"


def _fits(entry: tuple[Tensor, Mapping[str, str]], read: Recording) -> bool:
    """Tell whether there are as many targets as there were inputs."""
    features, about = entry
    n = str(len(read.targets))
    return about.get(_SAMPLES) == n and (_PROBLEM in about or str(len(features)) == n)


def _there(kept: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    return [(key, entry) for key, entry in kept.items() if entry is not None]


def _layer(content: Mapping[str, Any]) -> Layer:
    """Rebuild a layer from what JSON gives back."""
    taps = tuple(
        Tap(
            Site(**{**tap["site"], "output": tuple(tap["site"]["output"])}),
            tap["kind"],
            tuple(tap["shape"]),
            _axis(*tap["rows"]),
            tap["channel_axis"],
        )
        for tap in content["taps"]
    )
    return Layer(**{**content, "shape": tuple(content["shape"]), "aliases": tuple(content["aliases"]), "taps": taps})


def _axis(axis: int, fold: int, part: Sequence[int] | None = None, inner: bool = False) -> BatchAxis:
    return BatchAxis(axis, fold, None if part is None else (part[0], part[1]), inner)
