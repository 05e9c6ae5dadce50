"""Rows on a GPU, kept in the batches that they came in until they are wanted in one piece."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.features.disk import SpilledRows
from layerprobe.probing.features.host_memory import HostRows
from layerprobe.probing.features.row_blocks import Features

log = logging.getLogger("layerprobe")


class Batches:
    """What `GrowingRows` is on the CPU."""

    def __init__(self) -> None:
        self._batches: list[Tensor] = []

    def __len__(self) -> int:
        return sum(map(len, self._batches))

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return sum(batch.nbytes for batch in self._batches)

    def append(self, rows: Float[Tensor, "k d"]) -> None:
        """Keep a batch.

        Args:
            rows: The batch; belongs to this from now on.
        """
        self._batches.append(rows)

    def rows(self) -> Features:
        """All rows, in one piece where there is room for it; nothing is here any more afterwards."""
        some = self._batches[0]
        return whole(HostRows(some.shape[1], some.dtype, some.device), self.pieces(), len(self))

    def pieces(self) -> Iterator[Float[Tensor, "k d"]]:
        """Batch after batch, each given up with the next."""
        self._batches.reverse()
        while self._batches:
            yield self._batches.pop()


def whole(rows: HostRows | SpilledRows, batches: Iterable[Float[Tensor, "k d"]], n: int) -> Features:
    """Rows in one piece on their device, or in their store where there is no room for that.

    Args:
        rows: All of them, or a store for them that is empty.
        batches: What is to be joined.
        n: How many rows there are.

    Returns:
        The rows.
    """
    try:
        found = torch.empty(n, rows.shape[1], dtype=rows.dtype, device=rows.device)
    except torch.OutOfMemoryError:
        for batch in batches if len(rows) < n else ():
            rows.append(batch)
        log.warning("The GPU's memory is full: %d rows of %d features stay where they are read from.", *rows.shape)
        return rows
    start = 0
    for batch in batches:
        found[start : start + len(batch)] = batch
        start += len(batch)
    return found
