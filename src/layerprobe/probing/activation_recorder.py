"""Recorder of the activations of one split: targets, types and contents of its batches, and features of all layers."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from layerprobe.formatting import count_text
from layerprobe.probing.capture.activations import LayerReader
from layerprobe.probing.capture.call_arguments import Arguments
from layerprobe.probing.capture.content_hash import NoContentHashError, content_hash, raw_bytes
from layerprobe.probing.capture.default_device import programs_device
from layerprobe.probing.capture.freeze import Frozen, random_states
from layerprobe.probing.capture.hooks import Site, Way
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.capture.sample_independence import REASONS, RowCheck
from layerprobe.probing.capture.token_axes import no_mask, span_masks, token_masks
from layerprobe.probing.data_adapters import as_targets
from layerprobe.probing.data_fingerprint import Fingerprint
from layerprobe.probing.features.cache import AbstractSink
from layerprobe.probing.features.oom import free_cache, out_of_memory, without_advice
from layerprobe.probing.features.reducers import Reduction, shape_text
from layerprobe.probing.features.token_reducers import AbstractTokenReducer
from layerprobe.probing.parallel.exchange import AbstractExchange, BatchFindings
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.types import LayerName, Split

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with what is going on, how much of it is done, and how much there is (None: unknown)."""

WITHOUT_DOUBLE = ("mps",)
"""Devices that have no float64, in which every fit is certified: what they make is fitted on the CPU."""


@dataclass(frozen=True)
class Contents:
    """What the network is called with for the samples of a split, in their order.

    Attributes:
        inputs: Hash of every value, padding left out.
        padded: Hash of every value, those of padding among them, and of the shapes that they come in.
        masks: Hash of which places hold a token, where a token reducer asks for it.
    """

    inputs: str
    padded: str
    masks: str


@dataclass(frozen=True)
class Recording:
    """What one pass over a split leaves behind, besides the features.

    Attributes:
        targets: What the task reads for each sample, on the CPU.
        problems: Why a layer has no usable features, by layer.
        seconds: Wall-clock seconds spent on reducing, by layer.
        keys: The type of each sample, where that was asked for.
        contents: What the network is called with, where that was asked for and can be told.
        first: Samples in the first batch.
        ids: What names each sample, where that was asked for.
        no_positions: Why analyses have no positions of a layer to read, by layer; its heads are fitted all the same.
        samples: Fingerprint of the samples in their order; empty where it is not asked for.
        autocast: The number format of the passes, where they ran in another than the network's own.
    """

    targets: Shaped[Tensor, "n ..."]
    problems: Mapping[LayerName, str]
    seconds: Mapping[LayerName, float]
    keys: Int[Tensor, " n"] | None = None
    contents: Contents | None = None
    first: int = 0
    ids: Shaped[np.ndarray, " n"] | None = None
    no_positions: Mapping[LayerName, str] = field(default_factory=dict)
    samples: str = ""
    autocast: str | None = None

    def beside(self, other: Recording) -> Recording:
        """The same pass, with what another one over the split left behind for other layers."""
        problems, seconds = {**other.problems, **self.problems}, {**other.seconds, **self.seconds}
        no_positions = {**other.no_positions, **self.no_positions}
        return replace(self, problems=problems, seconds=seconds, no_positions=no_positions)


class SplitReader:
    """Reads batch after batch of a split.

    Args:
        protocol: Says how a batch is read.
        split: Name of the split.
        contents: Whether to hash what the network is called with.
    """

    def __init__(self, protocol: ProbeProtocol, split: Split, *, contents: bool = False) -> None:
        self._protocol, self._split = protocol, split
        self._targets: list[Tensor] = []
        self._keys: list[Tensor] = []
        self._ids: list[np.ndarray] = []
        self._named = protocol.sample_ids if split not in ("train", "val") else None
        self._inputs = Fingerprint(whole=True) if contents else None
        self._masks = Fingerprint(whole=True)
        self._masked = contents and by_tokens(protocol)

    def __enter__(self) -> SplitReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.check()

    def __call__(self, batch: Any) -> tuple[Any, Shaped[Tensor, "k ..."]]:
        """Read a batch.

        Returns:
            What the network is called with, and what the task reads for each sample.

        Raises:
            TypeError: It is not (input, target), or targets are not what the task predicts.
            ValueError: Targets and keys differ in number.
        """
        targets = task_targets(self._protocol, batch, self._split)
        with programs_device():
            inputs = self._protocol.inputs(batch)
        if not len(targets):
            return inputs, targets
        self._targets.append(targets)
        if "control_task" in self._protocol.controls:
            self._keys.append(self._protocol.keys_of(batch))
            self._check_number(len(targets), len(self._keys[-1]), "keys of the control task", "control_key")
        if self._named is not None:
            self._ids.append(_ids(self._named(batch)))
            self._check_number(len(targets), len(self._ids[-1]), "ids", "sample_ids")
        if self._inputs is not None:
            self._inputs.update(inputs)
        if self._masked:
            masks, _ = masks_of(self._protocol, inputs, batch)
            self._masks.update({name: {"attention_mask": mask} for name, mask in masks.items()})
        return inputs, targets

    def _check_number(self, n: int, found: int, of_what: str, option: str) -> None:
        if found != n:
            raise ValueError(
                f"A batch of the {self._split} split has {n} targets and {found} {of_what}. Each sample needs one: "
                f"choose with `{option}` what has samples first."
            )

    @property
    def samples(self) -> int:
        """Samples of all batches."""
        return sum(map(len, self._targets))

    @property
    def before(self) -> int:
        """Samples of all batches but the last."""
        return sum(map(len, self._targets[:-1]))

    def check(self) -> None:
        """Refuse a split without samples.

        Raises:
            ValueError: Naming the split.
        """
        if not self.samples:
            raise ValueError(f"The {self._split} split is empty. Probing needs samples in train, val and test.")
        if self._ids:
            found, first, times = np.unique(np.concatenate(self._ids), return_index=True, return_counts=True)
            if len(again := np.flatnonzero(times > 1)):
                i = again[first[again].argmin()]
                raise ValueError(
                    f"`sample_ids` gives {count_text(len(again), 'id')} to several samples of the {self._split} split: "
                    f"{found[i].item()!r} to {times[i]}. Choose what is different for each sample, or leave it out: "
                    "the id is then the place in the split."
                )

    def recording(self, problems: Mapping[LayerName, str], seconds: Mapping[LayerName, float]) -> Recording:
        """What is read by now."""
        keys = torch.cat(self._keys) if self._keys else None
        contents = None
        if self._inputs is not None and (inputs := self._inputs.digest()):
            contents = Contents(inputs, self._inputs.digest(padding=True), self._masks.digest())
        ids = np.concatenate(self._ids) if self._ids else None
        return Recording(torch.cat(self._targets), problems, seconds, keys, contents, len(self._targets[0]), ids)


class ActivationRecorder:
    """Runs every batch of a split through the network once, and hands the features of every layer to a sink.

    ```
    with ActivationRecorder(frozen, reductions, protocol, cache, "train") as record:
        for batch in batches:
            record(batch)
    recording = record.recording
    ```

    A layer that is not reached, changes its shape or holds NaN is among the problems, and dropped from the sink.

    Args:
        frozen: The network.
        reductions: What to make of each layer, those of other processes among them where batches are shared.
        protocol: Says how a batch is read.
        sink: Where the features go, when their batch is through.
        split: Name of the split.
        contents: Whether to hash what the network is called with.
        ways: As for `LayerReader`.
        exchange: Shares the batches with other processes.
    """

    def __init__(
        self,
        frozen: Frozen,
        reductions: Mapping[Layer, Sequence[Reduction]],
        protocol: ProbeProtocol,
        sink: AbstractSink,
        split: Split,
        *,
        contents: bool = False,
        ways: dict[Site, Way] | None = None,
        exchange: AbstractExchange | None = None,
    ) -> None:
        self._problems: dict[LayerName, str] = {}
        self._infinite: set[LayerName] = set()
        self._no_positions: dict[LayerName, str] = {}
        self._no_masks = ""
        self._seconds: dict[LayerName, float] = defaultdict(float)
        self._reductions, self._protocol, self._sink, self._split = reductions, protocol, sink, split
        self._network = frozen.network
        self._read = LayerReader(frozen, reductions, same_shape=False, ways=ways)
        self._layers: dict[Site, list[Layer]] = defaultdict(list)
        for layer in reductions:
            if not layer.alone:
                self._layers[layer.site].append(layer)
        self._rows = RowCheck(frozen, {site: layers[0].rows.samples_first for site, layers in self._layers.items()})
        self._sites = {layer: layer.site for layer in reductions if layer.alone or layer is self._layers[layer.site][0]}
        self._by_tokens = any(reduction.axes for found in reductions.values() for reduction in found)
        self._reader = SplitReader(protocol, split, contents=contents)
        self._n = 0
        self._masks: Mapping[str, Tensor] = {}
        self._found = BatchFindings()
        self._exchange = exchange
        self._own: BatchFindings | None = None
        self._waiting: list[Tensor] = []

    def __enter__(self) -> ActivationRecorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._found = BatchFindings()
        if kind is None:
            if self._waiting:
                self._swap()
            self._reader.check()

    @property
    def recording(self) -> Recording:
        """What is recorded by now, besides the features."""
        found = self._reader.recording(self._problems | self._sink.problems, self._seconds)
        return replace(found, no_positions=dict(self._no_positions))

    @property
    def unsteady(self) -> Mapping[LayerName, str]:
        """Why another pass may give a layer other values, for those that nothing shows to give the same."""
        return {layer.name: reason for layer in self._reductions if (reason := self._rows.unsteady(layer.site))}

    @property
    def lasting(self) -> Mapping[LayerName, str]:
        """The problems that a layer has in whatever batches its samples come."""
        return {layer: problem for layer, problem in self._problems.items() if layer in self._infinite}

    def __call__(self, batch: Any) -> None:
        """Record a batch.

        Raises:
            TypeError: It is not (input, target), or targets are not what the task predicts.
            ValueError: Inputs and targets, or keys, differ in number.
            MemoryError: It does not fit into the GPU's memory.
        """
        inputs, targets = self._reader(batch)
        self._n = len(targets)
        if not self._n:
            return
        if self._exchange is None or self._exchange.shares is False:
            self._keep(self._run(inputs, batch), targets)
        elif self._exchange.shares is None:
            states, held = random_states(), self._buffers()
            found = self._run(inputs, batch)
            still = held is not None and self._buffers() == held and random_states() == states
            first = self._hash(found) if still else ""
            self._keep(found, targets)
            self._exchange.decide(first)
        else:
            self._waiting.append(targets)
            if self._exchange.runs(len(self._waiting) - 1):
                states = random_states()
                self._own = self._run(inputs, batch)
                if random_states() != states:
                    raise RuntimeError(
                        f"The network draws random numbers in a batch of the {self._split} split, and drew none in the "
                        "first batch, so that the batches have been shared among processes, of which each would draw "
                        "others. Probe with one process."
                    )
            if len(self._waiting) == self._exchange.size:
                self._swap()

    def _buffers(self) -> str | None:
        """Hash the network's buffers, in which it may keep a state; None where they cannot be read."""
        try:
            return content_hash(*self._network.buffers())
        except NoContentHashError:
            return None

    def _run(self, inputs: Any, batch: Any) -> BatchFindings:
        """Run a batch through the network."""
        if self._by_tokens:
            masks, self._no_masks = masks_of(self._protocol, inputs, batch)
            self._masks = {**masks, **span_masks(inputs)}
        arguments = Arguments.of(inputs)
        self._found = BatchFindings()
        while (reason := self._no_room(arguments)) is not None:
            self._found = BatchFindings()
            gives_way = self._sink.give_way()
            free_cache()
            if not gives_way:
                raise MemoryError(
                    f"A batch of {self._n} samples of the {self._split} split does not fit into the GPU's "
                    f"memory beside the network. {reason}. Lower `batch_size`, or probe fewer layers at a time."
                )
        return self._found

    def _no_room(self, arguments: Arguments) -> str | None:
        """Run a batch. Why it does not fit into the GPU's memory; None if it does."""
        try:
            with self._rows.batch(arguments) as faults:
                missing = self._read(arguments, self._reduce)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            # Not the error itself: its traceback would hold on to what did not fit.
            return without_advice(error)
        for site, fault in faults.items():
            for layer in self._layers[site]:  # parts of one tensor, where there are several
                self._give_up(layer.name, f"in a batch of the {self._split} split: {REASONS[fault]}")
        for name, problem in missing.items():
            self._give_up(name, f"in a batch of the {self._split} split: {problem}")
        return None

    def _hash(self, found: BatchFindings) -> str:
        """Hash what a batch has led to; empty where another pass may lead to something else."""
        if self.unsteady:
            return ""
        digest = hashlib.blake2b(repr((sorted(found.problems.items()), sorted(found.no_positions.items()))).encode())
        for key, features in found.features:
            digest.update(repr((key, features.dtype, tuple(features.shape))).encode())
            digest.update(raw_bytes(features))
        return digest.hexdigest()

    def _swap(self) -> None:
        """Keep what a round of batches has led to, in all processes."""
        assert self._exchange is not None
        round_of = self._exchange.swap(self._own, self._split, self._reader.samples)
        for targets, found in zip(self._waiting, round_of, strict=False):  # the last round may be short
            self._keep(found, targets)
        self._own = None
        self._waiting.clear()

    def _keep(self, found: BatchFindings, targets: Shaped[Tensor, "k ..."]) -> None:
        """Hand the features of a batch to the sink, but for layers that have a problem by now."""
        for layer, problem in found.problems.items():
            if layer not in self._problems:
                self._problems[layer] = problem
                self._sink.drop(layer)
        for layer, problem in found.no_positions.items():
            self._no_positions.setdefault(layer, problem)
        self._infinite |= found.infinite
        for layer, seconds in found.seconds.items():
            self._seconds[layer] += seconds
        features, found.features = found.features[::-1], []
        while features:  # each is let go of when the sink has it
            key, rows = features.pop()
            if len(rows) != len(targets):
                raise ValueError(
                    f"A batch of the {self._split} split has {len(rows)} samples in one process and {len(targets)} in "
                    "another. Let every process divide the samples into the same batches, or probe with one process."
                )
            if key[0] not in self._problems and (self._exchange is None or self._exchange.owns(key[0])):
                self._sink.append(key, rows, targets)

    def _is_wanted(self, layer: LayerName) -> bool:
        """Whether this process, or one that it runs batches for, fits a layer."""
        return self._exchange is None or self._exchange.shares is not False or self._exchange.owns(layer)

    def _give_up(self, layer: LayerName, problem: str) -> None:
        if layer not in self._problems:
            self._found.problems.setdefault(layer, problem)

    def _reduce(self, layer: Layer, activation: Tensor) -> None:
        """Make features of a layer at the moment that it is made."""
        if (site := self._sites.get(layer)) is not None:
            self._rows.see(site, activation)
        if layer.name in self._problems or layer.name in self._found.problems or not self._is_wanted(layer.name):
            return
        start = time.perf_counter()
        if len(activation) != self._n:
            raise ValueError(
                f"A batch of the {self._split} split has {len(activation)} inputs and {self._n} "
                "targets. Each input needs one target."
            )
        for reduction in self._reductions[layer]:
            if not reduction.fitted:
                self._add_positions(layer, activation, reduction)
            elif problem := self._add(layer, activation, reduction):
                self._give_up(layer.name, problem)
                return
        self._found.seconds[layer.name] += time.perf_counter() - start

    def _add_positions(self, layer: Layer, activation: Tensor, reduction: Reduction) -> None:
        """Make what analyses alone read; where it cannot be made, they go without, and the layer's heads do not."""
        if layer.name in self._no_positions or layer.name in self._found.no_positions:
            return
        try:
            problem = self._no_masks or self._add(layer, activation, reduction)
        except ValueError as error:  # of a mask that is of other tokens
            problem = str(error)
        if problem:
            self._found.no_positions[layer.name] = problem

    def _add(self, layer: Layer, activation: Tensor, reduction: Reduction) -> str:
        """Make features of a layer. Why there are none; empty if there are."""
        if (problem := self._unlike(layer, activation, reduction)) is not None:
            return problem
        features = reduction(activation, self._masks)
        if features.device.type in WITHOUT_DOUBLE:
            features = features.cpu()
        if not torch.isfinite(features).all():
            row = self._reader.before + int((~torch.isfinite(features).all(1)).nonzero()[0])
            if reduction.fitted:
                self._found.infinite.add(layer.name)
            return f"NaN or infinite activations, first in {self._split} sample {row}"
        self._found.features.append(((layer.name, self._split, reduction.description), features))
        return ""

    def _unlike(self, layer: Layer, activation: Tensor, reduction: Reduction) -> str | None:
        """Why an activation cannot be reduced like those before; None if it can."""
        shape = tuple(activation.shape)[1:]
        if not reduction.fits(shape, layer.shape):
            return (
                f"of shape {shape_text(shape)} in a batch of the {self._split} split, {shape_text(layer.shape)} "
                "before: features need one shape. For sequences of several lengths choose a token reducer, such as "
                "reducer=last_token"
            )
        lengths = zip(reduction.masks, reduction.axes, strict=False) if self._masks else ()
        name = next((name for name, axis in lengths if name not in self._masks and shape[axis] > 1), "")
        return no_mask(name) if name else None


def _ids(given: Any) -> Shaped[np.ndarray, " k"]:
    """Ids of a batch as whole numbers or text."""
    found = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if found.dtype.kind == "f" and np.array_equal(found, found.astype(np.int64)):
        found = found.astype(np.int64)  # a table of metadata is often of one type
    if found.dtype.kind == "O" and all(isinstance(one, str) for one in found.flat):
        found = found.astype(str)
    if found.ndim != 1 or found.dtype.kind not in "iuU":
        raise TypeError(
            f"`sample_ids` needs a whole number or text for each sample, found {found.dtype} of shape {found.shape}. "
            "Choose a column of the batch, such as sample_ids=Column(0, path=1), or an item of it: Item('id')."
        )
    return found if found.dtype.kind == "U" else found.astype(np.int64)


def task_targets(protocol: ProbeProtocol, batch: Any, split: Split) -> Shaped[Tensor, "k ..."]:
    """The property to be probed of each sample of a batch, checked, on the CPU.

    Raises:
        TypeError: The batch is not (input, target), or targets are not what the task predicts.
        ValueError: Targets have another shape than the task's, or values that it cannot read.
    """
    with programs_device():
        targets = protocol.targets(batch)
    if isinstance(targets, int | float | np.generic) or (isinstance(targets, Tensor) and not targets.ndim):
        raise TypeError(
            f"A batch of the {split} split has one target, {targets!r}, without an axis of samples: the split gives "
            "samples, and batches are wanted. Give DataLoader(split, batch_size=256), or a Dataset."
        )
    return protocol.task.read(targets if isinstance(targets, Tensor) else as_targets(targets), split)


def first_batch(
    protocol: ProbeProtocol, batches: Iterable[Any], split: Split
) -> tuple[Any, Shaped[Tensor, "k ..."]] | None:
    """The first batch that has samples, with its targets; None where none has.

    Raises:
        TypeError: As `task_targets`.
        ValueError: Likewise.
    """
    for batch in batches:
        if len(targets := task_targets(protocol, batch, split)):
            return batch, targets
    return None


def by_tokens(protocol: ProbeProtocol) -> bool:
    """Whether a sweep asks which axes of a layer run over tokens."""
    return protocol.positions > 0 or _fits_tokens(protocol)


def masks_of(protocol: ProbeProtocol, inputs: Any, batch: Any) -> tuple[Mapping[str, Tensor], str]:
    """The masks of a batch's tokens.

    Returns:
        The masks by name; and what is wrong with them, where analyses alone read tokens.

    Raises:
        TypeError: A head is fitted to tokens, and a mask is not a tensor of two axes.
        ValueError: Likewise, and a sample has no token.
    """
    try:
        return token_masks(inputs, protocol.mask_of(batch)), ""
    except (TypeError, ValueError) as error:
        if _fits_tokens(protocol):
            raise
        return {}, str(error)


def _fits_tokens(protocol: ProbeProtocol) -> bool:
    """Whether heads are fitted to tokens."""
    return any(isinstance(reducer, AbstractTokenReducer) for reducer in protocol.reducers)
