"""Recorder of the features of all layers of one split, one forward pass for each batch."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from layerprobe.probing.capture.activations import LayerReader
from layerprobe.probing.capture.call_arguments import Arguments
from layerprobe.probing.capture.freeze import Frozen
from layerprobe.probing.capture.hooks import Site
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.capture.row_order import REASONS, RowCheck
from layerprobe.probing.capture.token_axes import no_mask, span_masks, token_masks
from layerprobe.probing.features.cache import AbstractSink, Key
from layerprobe.probing.features.oom import first_line, free_cache, out_of_memory
from layerprobe.probing.features.reducers import Reduction, shape_text
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.target_reader import Recording, SplitReader
from layerprobe.types import LayerName, Split

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with what is going on, how much of it is done, and how much there is (None: unknown)."""

WITHOUT_DOUBLE = ("mps",)
"""Devices that have no float64, in which every fit is certified: what they make is fitted on the CPU."""


class Recorder:
    """Runs every batch of a split through the network once, and hands the features of every layer to a sink.

    ```
    with Recorder(frozen, reductions, protocol, cache, "train") as record:
        for batch in batches:
            record(batch)
    recording = record.recording
    ```

    A layer that is not reached, changes its shape or holds NaN is among the problems, and dropped from the sink.
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
    ) -> None:
        """Choose what is recorded.

        Args:
            frozen: The network.
            reductions: What to make of each layer.
            protocol: Says how a batch is read.
            sink: Where the features go, when their batch is through.
            split: Name of the split.
            contents: Whether to hash what the network is called with.
        """
        self._problems: dict[LayerName, str] = {}
        self._infinite: set[LayerName] = set()
        self._seconds: dict[LayerName, float] = defaultdict(float)
        self._reductions, self._protocol, self._sink, self._split = reductions, protocol, sink, split
        self._read = LayerReader(frozen, reductions, same_shape=False)
        self._layers: dict[Site, list[Layer]] = defaultdict(list)
        for layer in reductions:
            if not layer.alone:
                self._layers[layer.site].append(layer)
        self._rows = RowCheck(frozen, {site: layers[0].rows.samples_first for site, layers in self._layers.items()})
        self._by_tokens = any(reduction.axes for found in reductions.values() for reduction in found)
        self._reader = SplitReader(protocol, split, contents=contents)
        self._masks: Mapping[str, Tensor] = {}
        self._batch: deque[tuple[Key, Tensor]] = deque()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._batch.clear()
        if kind is None:
            self._reader.check()

    @property
    def recording(self) -> Recording:
        """What is recorded by now, besides the features."""
        return self._reader.recording(self._problems | self._sink.problems, self._seconds)

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

        Args:
            batch: A batch of the split, of any make.

        Raises:
            TypeError: It is not (input, target), or targets are not what the task predicts.
            ValueError: Inputs and targets, or keys, differ in number.
            MemoryError: It does not fit into the GPU's memory.
        """
        inputs = self._reader(batch)
        self._masks = token_masks(inputs, self._protocol.mask_of(batch)) if self._by_tokens else {}
        self._masks = {**self._masks, **span_masks(inputs)}
        arguments = Arguments.of(inputs)
        while (reason := self._no_room(arguments)) is not None:
            self._batch.clear()
            gives_way = self._sink.give_way()
            free_cache()
            if not gives_way:
                raise MemoryError(
                    f"A batch of {self._reader.n_last} samples of the {self._split} split does not fit into the GPU's "
                    f"memory beside the network. {reason}. Lower `batch_size`, or probe fewer layers at a time."
                )
        while self._batch:
            key, features = self._batch.popleft()
            if key[0] not in self._problems:
                self._sink.append(key, features, self._reader.targets)

    def _no_room(self, arguments: Arguments) -> str | None:
        """Run a batch. Why it does not fit into the GPU's memory; None if it does."""
        try:
            with self._rows.batch(arguments) as faults:
                missing = self._read(arguments, self._reduce)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            # Not the error itself: its traceback would hold on to what did not fit.
            return first_line(error)
        for site, fault in faults.items():
            for layer in self._layers[site]:  # parts of one tensor, where there are several
                self._give_up(layer.name, f"in a batch of the {self._split} split: {REASONS[fault]}")
        for name in missing:
            self._give_up(name, f"not reached, or of another shape, in a batch of the {self._split} split")
        return None

    def _give_up(self, layer: LayerName, problem: str) -> None:
        if layer not in self._problems:
            self._problems[layer] = problem
            self._sink.drop(layer)

    def _reduce(self, layer: Layer, activation: Tensor) -> None:
        """Make features of a layer at the moment that it is made."""
        if layer.alone or layer is self._layers[layer.site][0]:
            self._rows.see(layer.site, activation)
        if layer.name in self._problems:
            return
        start = time.perf_counter()
        if len(activation) != self._reader.n_last:
            raise ValueError(
                f"A batch of the {self._split} split has {len(activation)} inputs and {self._reader.n_last} "
                "targets. Each input needs one target."
            )
        for reduction in self._reductions[layer]:
            if (problem := self._unlike(layer, activation, reduction)) is not None:
                self._give_up(layer.name, problem)
                return
            features = reduction(activation, self._masks)
            if features.device.type in WITHOUT_DOUBLE:
                features = features.cpu()
            if not torch.isfinite(features).all():
                row = self._reader.before + int((~torch.isfinite(features).all(1)).nonzero()[0])
                self._infinite.add(layer.name)
                self._give_up(layer.name, f"NaN or infinite activations, first in {self._split} sample {row}")
                return
            self._batch.append(((layer.name, self._split, reduction.description), features))
        self._seconds[layer.name] += time.perf_counter() - start

    def _unlike(self, layer: Layer, activation: Tensor, reduction: Reduction) -> str | None:
        """Why an activation cannot be reduced like those before; None if it can."""
        shape = tuple(activation.shape)[1:]
        if not reduction.fits(shape, layer.shape):
            return (
                f"of shape {shape_text(shape)} in a batch of the {self._split} split, {shape_text(layer.shape)} "
                "before: features need one shape. For sequences of several lengths choose a token reducer, such as "
                "reducer=last_token"
            )
        name = reduction.unmasked(shape, self._masks)
        return no_mask(name) if name else None
