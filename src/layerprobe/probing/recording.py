"""Record the features of all layers of one split, one forward pass for each batch."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from layerprobe.probing.batches import Take
from layerprobe.probing.capture.activations import record
from layerprobe.probing.capture.hooks import Site, unwrap
from layerprobe.probing.capture.inputs import Arguments, NetworkInputs, device_of
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.capture.row_order import REASONS, BatchCheck, Fault, check_rows
from layerprobe.probing.capture.snapshot import Snapshot
from layerprobe.probing.capture.token_axes import no_mask, token_masks
from layerprobe.probing.features.cache import AbstractSink, Key
from layerprobe.probing.features.oom import first_line, free_cache, out_of_memory
from layerprobe.probing.features.reducers import Reduction, Shape, shape_text
from layerprobe.types import LayerName, Split

Context: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Makes what the network's passes run in, such as `torch.autocast`; fitting never does."""

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with what is going on, how much of it is done, and how much there is (None: unknown)."""

Use: TypeAlias = Callable[[Layer, Reduction, Tensor, Tensor], None]
"""Gets a layer, what was made of it, the features of a batch, and its targets."""


WITHOUT_DOUBLE = ("mps",)
"""Devices that have no float64, in which every fit is certified: what they make is fitted on the CPU."""


_CHECK_EVERY = 256
"""One sample in so many, and at most one of a batch, is compared with what it is alone."""


@dataclass
class Recording:
    """What one pass over a split leaves behind, besides what was done with the features.

    Attributes:
        targets: What the task reads for each sample, on the CPU.
        problems: Why a layer has no usable features, by layer.
        seconds: Wall-clock seconds spent on reducing, by layer.
        keys: The type of each sample, where that was asked for.
    """

    targets: Shaped[Tensor, "n ..."] = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    problems: dict[LayerName, str] = field(default_factory=dict)
    seconds: dict[LayerName, float] = field(default_factory=lambda: defaultdict(float))
    keys: Int[Tensor, " n"] | None = None


def record_split(
    network: nn.Module,
    batches: Iterable[Any],
    split: Split,
    reductions: Mapping[Layer, Sequence[Reduction]],
    inputs: Take,
    targets: Callable[[Any, Split], Tensor],
    mask: Take,
    sink: AbstractSink,
    on_batch: Callable[[], None] = lambda: None,
    context: Context = nullcontext,
    keys: Callable[[Any], Tensor] | None = None,
) -> Recording:
    """Run every batch through the network once and keep the features of every layer.

    Args:
        network: As for `run_split`.
        batches: As for `run_split`.
        split: As for `run_split`.
        reductions: As for `run_split`.
        inputs: As for `run_split`.
        targets: As for `run_split`.
        mask: As for `run_split`.
        sink: Where the features go.
        on_batch: As for `run_split`.
        context: As for `run_split`.
        keys: As for `run_split`.

    Returns:
        The recording. A layer that was not reached, changed shape, holds NaN or found no room is among its problems.

    Raises:
        TypeError: As for `run_split`.
        ValueError: As for `run_split`.
    """
    # A batch that is run again must not be kept twice.
    batch: list[tuple[Key, Tensor, Tensor]] = []

    def keep(layer: Layer, reduction: Reduction, features: Tensor, targets: Tensor) -> None:
        batch.append(((layer.name, split, reduction.description), features, targets))

    def keep_batch() -> None:
        batch.reverse()
        while batch:
            sink.append(*batch.pop())
        on_batch()

    def make_room() -> bool:
        batch.clear()
        return sink.give_way()

    found = run_split(
        network, batches, split, reductions, inputs, targets, mask, keep, sink.drop, keep_batch, context, make_room,
        keys,
    )  # fmt: skip
    found.problems |= sink.problems
    return found


def run_split(
    network: nn.Module,
    batches: Iterable[Any],
    split: Split,
    reductions: Mapping[Layer, Sequence[Reduction]],
    inputs: Take,
    targets: Callable[[Any, Split], Tensor],
    mask: Take,
    use: Use,
    lose: Callable[[LayerName], None] = lambda layer: None,
    on_batch: Callable[[], None] = lambda: None,
    context: Context = nullcontext,
    make_room: Callable[[], bool] = lambda: False,
    keys: Callable[[Any], Tensor] | None = None,
) -> Recording:
    """Run every batch through the network once and reduce every layer as it is made.

    Args:
        network: A network inside `frozen`.
        batches: The split's batches, in order.
        split: Name of the split, for errors.
        reductions: What to make of each layer.
        inputs: Takes the inputs out of a batch.
        targets: Takes the targets out of a batch of the split, checked, on the CPU.
        mask: Takes out of a batch which places of its sequences hold a token; used where a reduction is of tokens.
        use: Gets a layer, what was made of it, the features, and the batch's targets.
        lose: Told of a layer that is no longer used.
        on_batch: Called after each batch.
        context: Makes what the network runs in; reducing never does.
        make_room: Called where a GPU runs out of memory in a batch. Whether it is worth running the batch again.
        keys: Names the type of each sample of a batch; not asked for by default.

    Returns:
        The targets, and the layers that were not reached, changed their shape or hold NaN.

    Raises:
        TypeError: Where a batch is not (input, target), or targets are not what the task predicts.
        ValueError: Where the split is empty, or inputs and targets differ in number.
        MemoryError: Where a batch does not fit into the GPU's memory.
    """
    run, seen, types = Recording(), [], []
    rows = _Rows(network, tuple(reductions), context, split)
    by_tokens = any(reduction.axes for found in reductions.values() for reduction in found)
    for batch in batches:
        seen.append(targets(batch, split))
        if keys is not None:
            types.append(keys(batch))
            if len(types[-1]) != len(seen[-1]):
                raise ValueError(
                    f"A batch of the {split} split has {len(seen[-1])} targets and {len(types[-1])} keys of the "
                    "control task. Each sample needs one: choose with `control_key` what has samples first."
                )
        given = inputs(batch)
        held = token_masks(given, mask(batch)) if by_tokens else {}
        first = sum(map(len, seen[:-1]))

        def give(
            layer: Layer,
            activation: Tensor,
            first: int = first,
            truth: Tensor = seen[-1],
            held: Mapping[str, Tensor] = held,
        ) -> None:
            rows.see(layer, activation)
            if layer.name in run.problems:
                return
            start = time.perf_counter()
            if len(activation) != len(truth):
                raise ValueError(
                    f"A batch of the {split} split has {len(activation)} inputs and {len(truth)} targets. "
                    "Each input needs one target."
                )
            shape = tuple(activation.shape)[1:]
            for reduction in reductions[layer]:
                if not reduction.fits(shape, layer.shape):
                    run.problems[layer.name] = _other_shape(layer, shape, split)
                    lose(layer.name)
                    return
                if name := reduction.unmasked(shape, held):
                    run.problems[layer.name] = no_mask(name)
                    lose(layer.name)
                    return
                features = reduction(activation, held)
                if features.device.type in WITHOUT_DOUBLE:
                    features = features.cpu()
                if not torch.isfinite(features).all():
                    row = first + int((~torch.isfinite(features).all(1)).nonzero()[0])
                    run.problems[layer.name] = f"NaN or infinite activations, first in {split} sample {row}"
                    lose(layer.name)
                    return
                use(layer, reduction, features, truth)
            run.seconds[layer.name] += time.perf_counter() - start

        def recorded(given: NetworkInputs = given, give: Callable[[Layer, Tensor], None] = give) -> list[LayerName]:
            with rows.checked(given, run.problems, lose):
                return _recorded(network, given, reductions, give, context)

        what = f"A batch of {len(seen[-1])} samples of the {split} split"
        for name in _with_room(recorded, make_room, what):
            run.problems.setdefault(name, f"not reached, or of another shape, in a batch of the {split} split")
        on_batch()
    if not sum(map(len, seen)):
        raise ValueError(f"The {split} split is empty. Probing needs samples in train, val and test.")
    run.targets = torch.cat(seen)
    run.keys = torch.cat(types) if types else None
    return run


class _Rows:
    """Sees to it that every row of every layer holds the values of its own sample, whatever came before."""

    def __init__(self, network: nn.Module, layers: Sequence[Layer], context: Context, split: Split) -> None:
        self._network, self._context, self._split = unwrap(network), context, split
        self._layers = {layer.taps[0].site: layer for layer in layers if not layer.alone}
        self._readers = {site: layer.taps[0].samples_first for site, layer in self._layers.items()}
        self._check: BatchCheck | None = None
        self._stateful = False
        self._unchecked = math.inf

    def see(self, layer: Layer, activation: Tensor) -> None:
        """Look at an activation, samples first."""
        if self._check is not None:
            self._check.see(layer.taps[0].site, activation)

    @contextmanager
    def checked(
        self, inputs: NetworkInputs, problems: dict[LayerName, str], lose: Callable[[LayerName], None]
    ) -> Iterator[None]:
        """Check the batch that is recorded inside, and put the network's state back after it if it has one.

        Args:
            inputs: The batch.
            problems: Gets the layers whose rows are not the samples'.
            lose: Told of them.
        """
        arguments = Arguments.of(inputs).copy_to(device_of(self._network))
        first = self._check is None
        faults: dict[Site, Fault] = {}
        if first:
            found = check_rows(self._network, arguments, self._readers, self._context)
            self._check = BatchCheck(self._network, self._readers, found.random, self._context)
            self._stateful = found.stateful
            faults |= found.faults
        check, state = self._check, Snapshot(self._network) if self._stateful else None
        assert check is not None
        self._unchecked += arguments.batch_size
        due = arguments.batch_size > 1 and self._unchecked >= _CHECK_EVERY
        try:
            if due:
                self._unchecked = 0
                check.begin(arguments)
            if state is not None:
                state.restore()
            yield
            if due:
                if state is not None:
                    state.restore()
                faults = {**check.faults(arguments), **faults}
        finally:
            check.end()
            if state is not None:
                state.restore()
        for site, fault in faults.items():
            name = self._layers[site].name
            if name not in problems:
                problems[name] = f"in a batch of the {self._split} split: {REASONS[fault]}"
                lose(name)


def _recorded(
    network: nn.Module,
    inputs: NetworkInputs,
    reductions: Mapping[Layer, Sequence[Reduction]],
    give: Callable[[Layer, Tensor], None],
    context: Context,
) -> list[LayerName]:
    with context():
        return record(network, inputs, tuple(reductions), give, same_shape=False)


def _with_room(run: Callable[[], list[LayerName]], make_room: Callable[[], bool], what: str) -> list[LayerName]:
    """Run a batch, again and again while there is something that can make room for it."""
    while True:
        try:
            return run()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            reason = first_line(error)
        # Outside of the handler: the exception's traceback would hold on to what did not fit.
        found = make_room()
        free_cache()
        if not found:
            raise MemoryError(
                f"{what} does not fit into the GPU's memory beside the network. {reason}. Lower `batch_size`, or probe "
                "fewer layers at a time."
            )


def _other_shape(layer: Layer, shape: Shape, split: Split) -> str:
    return (
        f"of shape {shape_text(shape)} in a batch of the {split} split, {shape_text(layer.shape)} before: features "
        "need one shape. For sequences of several lengths choose a token reducer, such as reducer=last_token"
    )
