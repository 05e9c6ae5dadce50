"""Cache of the features of all layers: where they are made while they fit, the largest in RAM or on disk beyond."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from layerprobe.probing.features.buffer import Buffer
from layerprobe.probing.features.host_rows import HostRows, give_back
from layerprobe.probing.features.reducers import Reduction
from layerprobe.probing.features.row_blocks import Features, placed_blocks
from layerprobe.probing.features.spill_file import SpilledRows, SpillError, SpillFile
from layerprobe.types import LayerName, Split

log = logging.getLogger("layerprobe")

Key: TypeAlias = tuple[LayerName, Split, str]
"""A layer, a split, and what was done to make features of it."""


Splits: TypeAlias = Mapping[Split, Callable[[Reduction], Any]]
"""For each split, what hands over what was kept of one layer, made in one way."""


class AbstractSink(ABC):
    """Takes what is recorded, batch by batch."""

    problems: dict[LayerName, str]

    @abstractmethod
    def append(self, key: Key, features: Float[Tensor, "k d"], targets: Shaped[Tensor, "k ..."]) -> None:
        """Take a batch, which belongs to the sink from now on; the targets are on the CPU."""

    @abstractmethod
    def drop(self, layer: LayerName) -> None:
        """Forget a layer."""

    @abstractmethod
    def give_way(self) -> bool:
        """Make room on a device that has run out of memory.

        Returns:
            Whether some was made.
        """

    @abstractmethod
    def layer(self, name: LayerName) -> AbstractContextManager[Splits]:
        """Return what was kept of a layer, split by split; what is left of it inside is forgotten afterwards."""


Place: TypeAlias = Literal["memory", "host", "disk"]
"""Where features wait for their fit: where they are made, in the own memory of a GPU's machine, or in a file."""


class FeatureCache(AbstractSink):
    """Everything that is recorded of one checkpoint, within a budget.

    When what is held exceeds the budget, the layer that holds most moves away with all its splits, and what is recorded
    of it from then on goes there directly. Where the number of samples is known beforehand, that is at its first batch;
    otherwise once they are too many. Features made on a GPU move to the machine's own memory, and from there to disk;
    those made on the CPU move to disk.

    Args:
        budget: Bytes that features may take where they are made.
        directory: Where files are; by default the system's directory for temporary files.
        kept_as: Precision on disk; by default that of the features.
        host: Bytes of the machine's own memory that features made on a GPU may take.
        samples: How many samples each split has, as far as that is known.
    """

    def __init__(
        self,
        budget: int,
        directory: Path | None = None,
        kept_as: torch.dtype | None = None,
        host: int = 0,
        samples: Mapping[Split, int | None] = MappingProxyType({}),
    ) -> None:
        self.budget, self.directory, self.kept_as, self.host, self.samples = budget, directory, kept_as, host, samples
        self.problems: dict[LayerName, str] = {}
        self._held: dict[Key, Buffer] = {}
        self._bytes: dict[LayerName, int] = {}
        self._taken = 0
        self._in_host: dict[Key, HostRows] = {}
        self._spilled: dict[Key, SpilledRows] = {}
        self._in_ram: dict[LayerName, int] = {}
        self._on_disk: set[LayerName] = set()
        self._file: SpillFile | None = None

    @property
    def on_disk(self) -> frozenset[LayerName]:
        """The layers that are kept in a file."""
        return frozenset(self._on_disk)

    @property
    def in_ram(self) -> frozenset[LayerName]:
        """The layers made on a GPU that are kept in the machine's own memory."""
        return frozenset(self._in_ram)

    @property
    def left(self) -> int:
        """Bytes of the budget that no features take."""
        return max(self.budget - self._taken - sum(self._bytes.values()), 0)

    @contextmanager
    def layer(self, name: LayerName) -> Iterator[Splits]:
        """See `AbstractSink.layer`; features are handed over once."""

        def taken(split: Split, reduction: Reduction) -> Features:
            return self.take((name, split, reduction.description))

        try:
            kept = (*self._held, *self._in_host, *self._spilled)
            yield {split: partial(taken, split) for layer, split, _ in kept if layer == name}
        finally:
            self.drop(name)

    def append(self, key: Key, features: Float[Tensor, "k d"], targets: Shaped[Tensor, "k ..."] | None = None) -> None:
        """See `AbstractSink.append`; targets are not kept.

        A layer that has to go to disk and cannot is forgotten, and is among the `problems`.
        """
        layer = key[0]
        if layer in self.problems:
            return
        away = layer in self._in_ram or layer in self._on_disk
        if not away and key not in self._held:
            self._reserve(key, features)
            self._settle()
            away = layer in self._in_ram or layer in self._on_disk
        if away:
            self._write(key, [features])
        else:
            self._hold(key, features)
        self._settle()

    def give_way(self) -> bool:
        """Move the largest layer away, since its device has run out of memory, and keep no more there than is left.

        Returns:
            Whether there was one.
        """
        held = {layer: size for layer, size in self._bytes.items() if size}
        if not held:
            return False
        layer = max(held, key=held.__getitem__)
        self._move(layer)
        self.budget = sum(self._bytes.values())
        self._settle()
        self._say_moved(layer, held[layer])
        return True

    def _say_moved(self, layer: LayerName, size: int) -> None:
        place = "RAM" if layer in self._in_ram else "disk"
        log.warning("The GPU's memory is full: the features of %s (%.2f GB) go to %s.", layer, size / 1e9, place)

    def take(self, key: Key) -> Features:
        """Hand a layer's features of one split over; they are not kept.

        What is on disk comes back into memory where the budget has room for it by now.
        """
        kept = self._in_host if key in self._in_host else self._spilled
        if key in kept:
            rows = kept.pop(key)
            size = len(rows) * rows.shape[1] * rows.dtype.itemsize
            if size > self.left:
                return rows
            self._taken += size
            return _whole(rows)
        held = self._held.pop(key)
        self._bytes[key[0]] -= held.nbytes
        self._taken += held.nbytes
        return held.rows()

    def rows(self, key: Key) -> Features | None:
        """Return a layer's features of one split, which stay here; None where there are none. Not to be written to."""
        if key in self._held:
            return self._held[key].rows()
        return self._in_host[key] if key in self._in_host else self._spilled.get(key)

    def drop(self, layer: LayerName) -> None:
        """Forget a layer, and what was taken of it."""
        self._taken = 0
        self._bytes.pop(layer, None)
        if layer in self._in_ram:
            self._in_ram[layer] = 0
        for kept in (self._held, self._in_host, self._spilled):
            for key in [key for key in kept if key[0] == layer]:
                del kept[key]
        if layer in self._in_ram:
            give_back()

    def close(self) -> None:
        """Forget everything."""
        self._held.clear()
        self._in_host.clear()
        self._spilled.clear()
        self._bytes.clear()
        self._in_ram.clear()
        if self._file is not None:
            self._file.close()
            self._file = None
        give_back()

    def _reserve(self, key: Key, like: Tensor) -> None:
        """Set memory aside for all splits whose size is known, so that a layer moves before it is there or never."""
        layer, _, reduction = key
        for split in {key[1], *(split for split, n in self.samples.items() if n is not None)}:
            if (layer, split, reduction) not in self._held:
                buffer = Buffer(like.shape[1], like.dtype, like.device, self.samples.get(split))
                self._held[layer, split, reduction] = buffer
                self._bytes[layer] = self._bytes.get(layer, 0) + buffer.nbytes

    def _hold(self, key: Key, features: Tensor) -> None:
        layer, buffer = key[0], self._held[key]
        before = buffer.nbytes
        try:
            buffer.append(features)
        except torch.OutOfMemoryError:
            size = self._bytes[layer]
            self._move(layer)
            self._write(key, [features])
            self._say_moved(layer, size)
        else:
            self._bytes[layer] += buffer.nbytes - before

    def _settle(self) -> None:
        """Move what exceeds the budgets."""
        for layer in leaving(self._bytes, self.budget):
            self._move(layer)
        for layer in leaving(self._in_ram, self.host):
            self._sink(layer)

    def _move(self, layer: LayerName) -> None:
        """Move rows from where features are made to the next place."""
        del self._bytes[layer]
        keys = [key for key in self._held if key[0] == layer]
        if self.host:
            self._in_ram[layer] = 0
        else:
            self._on_disk.add(layer)
        for key in keys:
            if layer not in self.problems:
                self._write(key, self._held.pop(key).pieces())

    def _sink(self, layer: LayerName) -> None:
        """Move rows from the machine's own memory to disk."""
        del self._in_ram[layer]
        self._on_disk.add(layer)
        try:
            for key in [key for key in self._in_host if key[0] == layer]:
                rows = self._in_host.pop(key)
                on_disk = self._spilled[key] = self._on_disk_as(rows)
                for piece in rows.pieces():
                    on_disk.append(piece)
        except SpillError as error:
            self.problems[layer] = str(error)
            self.drop(layer)

    def _write(self, key: Key, batches: Iterable[Tensor]) -> None:
        layer = key[0]
        try:
            for batch in batches:
                if layer in self._in_ram:
                    self._keep_in_host(key, batch)
                else:
                    if key not in self._spilled:
                        self._spilled[key] = self._on_disk_as(batch)
                    self._spilled[key].append(batch)
        except SpillError as error:
            self.problems[layer] = str(error)
            self.drop(layer)

    def _keep_in_host(self, key: Key, batch: Tensor) -> None:
        if key not in self._in_host:
            self._in_host[key] = HostRows(batch.shape[1], batch.dtype, batch.device)
        rows = self._in_host[key]
        before = rows.nbytes
        rows.append(batch)
        self._in_ram[key[0]] += rows.nbytes - before

    def _on_disk_as(self, like: Tensor | HostRows) -> SpilledRows:
        return SpilledRows(self._disk(), like.shape[1], self.kept_as or like.dtype, like.dtype, like.device)

    def _disk(self) -> SpillFile:
        self._file = self._file or SpillFile(self.directory)
        return self._file


def leaving(sizes: Mapping[LayerName, int], budget: int) -> list[LayerName]:
    """Choose the layers that make room where a budget is exceeded: the largest, until the others fit."""
    found, total = [], sum(sizes.values())
    for layer in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if total <= budget:
            break
        found.append(layer)
        total -= sizes[layer]
    return found


def places(sizes: Mapping[LayerName, int], budget: int, host: int) -> dict[LayerName, Place]:
    """Say where a `FeatureCache` keeps layers in the end, by the bytes of each, of all splits."""
    moved = leaving(sizes, budget)
    sunk = leaving({layer: sizes[layer] for layer in moved}, host)
    return {layer: "memory" if layer not in moved else "disk" if layer in sunk else "host" for layer in sizes}


def _whole(rows: HostRows | SpilledRows) -> Features:
    """Return rows in one piece on their device, or as they are where there is no room for that."""
    try:
        found = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    except torch.OutOfMemoryError:
        log.warning("The GPU's memory is full: %d rows of %d features stay where they are read from.", *rows.shape)
        return rows
    for place, block in placed_blocks(rows):
        found[place] = block
    return found
