"""Recorder of the activations of one split: each batch runs through the network once, and layers become features."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from layerprobe.probing.capture.activations import LayerReader
from layerprobe.probing.capture.call_arguments import Arguments
from layerprobe.probing.capture.content_hash import NoContentHashError, content_hash, raw_bytes
from layerprobe.probing.capture.freeze import Frozen
from layerprobe.probing.capture.hooks import Site, Way
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.capture.random_generators import random_states
from layerprobe.probing.capture.sample_independence import REASONS, RowCheck
from layerprobe.probing.capture.token_axes import no_mask, span_masks
from layerprobe.probing.features.cache import AbstractSink
from layerprobe.probing.features.oom import free_cache, out_of_memory, without_advice
from layerprobe.probing.features.reducers import Reduction, shape_text
from layerprobe.probing.parallel.exchange import AbstractExchange, BatchFindings
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.split_reader import Recording, SplitReader, masks_of
from layerprobe.types import LayerName, Split

WITHOUT_DOUBLE = ("mps",)
"""Devices that have no float64, in which every fit is certified: what they make is fitted on the CPU."""


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
        """Tell whether this process, or one that it runs batches for, fits a layer."""
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
        """Say why an activation cannot be reduced like those before; None if it can."""
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
