"""Keep the features of all layers: in memory while they fit, the largest on disk beyond."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.matrix import Features, blocks
from layerprobe.probing.spill import SpilledRows, SpillError, SpillFile
from layerprobe.types import LayerName, Split

Key: TypeAlias = tuple[LayerName, Split, str]
"""A layer, a split, and what was done to make features of it."""


class FeatureBank:
    """Everything that is recorded of one checkpoint, within a budget.

    Nothing has to be known of the number of samples beforehand: when what is held exceeds the budget, the layer that
    holds most moves to disk with all its splits, and what is recorded of it from then on goes there directly.

    Args:
        budget: Bytes that features may take in memory.
        directory: Where the rest is kept; by default the system's directory for temporary files.
        kept_as: Precision on disk; by default that of the features.

    Attributes:
        problems: Why a layer could not be kept.
    """

    def __init__(self, budget: int, directory: Path | None = None, kept_as: torch.dtype | None = None) -> None:
        self.budget, self.directory, self.kept_as = budget, directory, kept_as
        self.problems: dict[LayerName, str] = {}
        self._held: dict[Key, list[Tensor]] = {}
        self._bytes: dict[LayerName, int] = {}
        self._taken = 0
        self._spilled: dict[Key, SpilledRows] = {}
        self._on_disk: set[LayerName] = set()
        self._file: SpillFile | None = None

    @property
    def on_disk(self) -> frozenset[LayerName]:
        """The layers that did not fit."""
        return frozenset(self._on_disk)

    def append(self, key: Key, features: Float[Tensor, "k d"]) -> None:
        """Keep a batch.

        Args:
            key: Of what.
            features: The batch; belongs to the bank from now on.

        A layer that has to go to disk and cannot is forgotten, and is among the `problems`.
        """
        layer = key[0]
        if layer in self.problems:
            return
        if layer in self._on_disk:
            self._write(key, [features])
            return
        self._held.setdefault(key, []).append(features)
        self._bytes[layer] = self._bytes.get(layer, 0) + features.nbytes
        while self._bytes and sum(self._bytes.values()) > self.budget:
            self._move(max(self._bytes, key=lambda name: self._bytes[name]))

    def take(self, key: Key) -> Features:
        """Hand a layer's features of one split over; they are not kept.

        What is on disk comes back into memory where the budget has room for it by now.

        Args:
            key: Of what.

        Returns:
            The features.
        """
        if key in self._spilled:
            rows = self._spilled.pop(key)
            size = len(rows) * rows.shape[1] * rows.dtype.itemsize
            if size > self.budget - self._taken - sum(self._bytes.values()):
                return rows
            self._taken += size
            return _whole(blocks(rows), rows.shape, rows.dtype, rows.device)
        batches = self._held.pop(key)
        size = sum(batch.nbytes for batch in batches)
        self._bytes[key[0]] -= size
        self._taken += size
        shape, first = (sum(map(len, batches)), batches[0].shape[1]), batches[0]
        return _whole(_given_up(batches), shape, first.dtype, first.device)

    def drop(self, layer: LayerName) -> None:
        """Forget a layer, and what was taken of it."""
        self._taken = 0
        self._bytes.pop(layer, None)
        for kept in (self._held, self._spilled):
            for key in [key for key in kept if key[0] == layer]:
                del kept[key]

    def close(self) -> None:
        """Forget everything."""
        self._held.clear()
        self._spilled.clear()
        self._bytes.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _move(self, layer: LayerName) -> None:
        del self._bytes[layer]
        self._on_disk.add(layer)
        for key in [key for key in self._held if key[0] == layer]:
            if layer not in self.problems:
                self._write(key, self._held.pop(key))

    def _write(self, key: Key, batches: list[Tensor]) -> None:
        try:
            self._file = self._file or SpillFile(self.directory)
            for batch in batches:
                if key not in self._spilled:
                    kept_as = self.kept_as or batch.dtype
                    self._spilled[key] = SpilledRows(self._file, batch.shape[1], kept_as, batch.dtype, batch.device)
                self._spilled[key].append(batch)
        except SpillError as error:
            self.problems[key[0]] = str(error)
            self.drop(key[0])


def _given_up(batches: list[Tensor]) -> Iterator[Tensor]:
    """Batch after batch, each forgotten as soon as it is copied, so that nothing is held twice."""
    batches.reverse()
    while batches:
        yield batches.pop()


def _whole(batches: Iterable[Tensor], shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    whole, start = torch.empty(shape, dtype=dtype, device=device), 0
    for batch in batches:
        whole[start : start + len(batch)] = batch
        start += len(batch)
    return whole
