"""A matrix in memory that grows by rows and is never held twice."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

_PIECE = 1 << 22
"""Elements handed out at a time."""


class GrowingRows:
    """Rows that come in batches, in one piece of memory of their own.

    Batches that are kept one by one have to be joined in the end, when all of them exist twice; and what an allocator
    is given back of them it does not give back to the system. Pages of this process' own, mapped for one matrix, can be
    moved to larger ones without a copy (`mremap`), take no memory before they are written, and are gone with it.

    Args:
        n_features: Length of a row.
        dtype: Precision.
    """

    def __init__(self, n_features: int, dtype: torch.dtype) -> None:
        self.n_features, self.dtype = n_features, dtype
        self._n = 0
        self._pages: mmap.mmap | None = None

    def __len__(self) -> int:
        return self._n

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return self._n * self._row

    @property
    def _row(self) -> int:
        return self.n_features * self.dtype.itemsize

    def append(self, rows: Float[Tensor, "k d"]) -> None:
        """Copy a batch behind the rows that are there.

        Args:
            rows: The batch, on the CPU.
        """
        needed = self.nbytes + rows.nbytes
        if needed > (0 if self._pages is None else len(self._pages)):
            self._grow(needed)
        start, self._n = self._n, self._n + len(rows)
        self._view(start, self._n).copy_(rows)

    def rows(self) -> Float[Tensor, "n d"]:
        """All rows; nothing may be appended afterwards."""
        return self._view(0, self._n)

    def pieces(self) -> Iterator[Float[Tensor, "k d"]]:
        """The rows, some at a time."""
        step = max(1, _PIECE // max(self.n_features, 1))
        for start in range(0, self._n, step):
            yield self._view(start, min(start + step, self._n))

    def _view(self, start: int, stop: int) -> Tensor:
        count = (stop - start) * self.n_features
        if self._pages is None or count == 0:
            return torch.empty(stop - start, self.n_features, dtype=self.dtype)
        values = torch.frombuffer(self._pages, dtype=self.dtype, count=count, offset=start * self._row)
        return values.view(-1, self.n_features)

    def _grow(self, needed: int) -> None:
        # Twice as much, so that growing is rare; where the system promises no memory that it has not, just enough.
        try:
            self._pages = _resized(self._pages, 2 * needed)
        except OSError:
            try:
                self._pages = _resized(self._pages, needed)
            except OSError:
                raise MemoryError(f"There is no memory for {needed / 1e9:.2f} GB of features.") from None


def _resized(pages: mmap.mmap | None, size: int) -> mmap.mmap:
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
