"""The buffer that the rows of one layer and split are written into, where they are made."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.formatting import size_text

_PIECE = 1 << 22
"""Elements handed out at a time."""


Resize: TypeAlias = Callable[[mmap.mmap | None, int], mmap.mmap]


def resized_pages(pages: mmap.mmap | None, size: int) -> mmap.mmap:
    """Map pages of this process' own, or make them larger: by a move, or by a copy where the system knows no other way.

    Raises:
        OSError: Where there is no memory for them.
    """
    if pages is not None:
        try:
            pages.resize(size)
            return pages
        except SystemError:  # a system without mremap
            pass
    found = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if pages is not None:
        found[: len(pages)] = pages[:]
    return found


class Buffer:
    """Rows that come in batches, in one piece of memory.

    Batches that are kept one by one have to be joined in the end, when all of them exist twice. So the memory is taken
    at once where the number of rows is known, and doubled where it is not.

    On the CPU it is pages of this process' own, mapped for one matrix: they take no memory before they are written, can
    be moved to larger ones without a copy (`mremap`), and are gone with the matrix, where an allocator keeps what it is
    given back.

    Args:
        n_features: Length of a row.
        dtype: Precision.
        device: Where the rows are made.
        expected: How many rows there will be; None where that is not known.
        resized: Makes room for so many bytes on the CPU, with what the pages hold that there are. Given where the
            system is to answer as another one would: one that grants no more than is needed, or nothing at all.
    """

    def __init__(
        self,
        n_features: int,
        dtype: torch.dtype,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (never changed)
        expected: int | None = None,
        resized: Resize = resized_pages,
    ) -> None:
        self.n_features, self.dtype, self.device, self.expected = n_features, dtype, device, expected
        self._resized, self._row = resized, n_features * dtype.itemsize
        self._n, self._mapped = 0, device.type == "cpu"
        self._pages: mmap.mmap | None = None
        self._values: Tensor | None = None

    def __len__(self) -> int:
        return self._n

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take, those that are expected among them."""
        capacity = 0 if self._values is None else len(self._values)
        return max(self._n, self.expected or 0, capacity) * self._row

    def append(self, rows: Float[Tensor, "k d"]) -> None:
        """Copy a batch behind the rows that are there.

        Raises:
            MemoryError: Where the machine has no memory for it.
            torch.OutOfMemoryError: Where a GPU has none.
        """
        start, stop = self._n, self._n + len(rows)
        if self._mapped:
            if stop * self._row > (0 if self._pages is None else len(self._pages)):
                self._map(stop)
        elif self._values is None or stop > len(self._values):
            self._allocate(stop)
        self._view(start, stop).copy_(rows)
        self._n = stop

    def rows(self) -> Float[Tensor, "n d"]:
        """Return all rows; nothing may be appended afterwards."""
        return self._view(0, self._n)

    def pieces(self) -> Iterator[Float[Tensor, "k d"]]:
        """Return the rows, some at a time."""
        step = max(1, _PIECE // max(self.n_features, 1))
        for start in range(0, self._n, step):
            yield self._view(start, min(start + step, self._n))

    def _view(self, start: int, stop: int) -> Tensor:
        if self._values is not None:
            return self._values[start:stop]
        count = (stop - start) * self.n_features
        if self._pages is None or count == 0:
            return torch.empty(stop - start, self.n_features, dtype=self.dtype, device=self.device)
        values = torch.frombuffer(self._pages, dtype=self.dtype, count=count, offset=start * self._row)
        return values.view(-1, self.n_features)

    def _sizes(self, needed: int) -> tuple[int, int]:
        """Say how many rows to make room for, and how many if there is not that much."""
        return (self.expected if self.expected is not None and needed <= self.expected else 2 * needed), needed

    def _allocate(self, needed: int) -> None:
        wanted, least = self._sizes(needed)
        try:
            values = torch.empty(wanted, self.n_features, dtype=self.dtype, device=self.device)
        except torch.OutOfMemoryError:
            values = torch.empty(least, self.n_features, dtype=self.dtype, device=self.device)
        if self._values is not None:
            values[: self._n] = self._values[: self._n]
        self._values = values

    def _map(self, needed: int) -> None:
        # Where the system promises no memory that it has not, just enough.
        wanted, least = self._sizes(needed)
        try:
            self._pages = self._resized(self._pages, wanted * self._row)
        except OSError:
            try:
                self._pages = self._resized(self._pages, least * self._row)
            except OSError:
                raise MemoryError(f"There is no memory for {size_text(least * self._row)} of features.") from None
