"""Rows of features that a GPU made, in the machine's own memory, pinned so that a GPU reads and writes it by itself."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.compat.torch import empty_host_cache
from layerprobe.probing.features.row_blocks import AbstractRows

_LARGEST = 1 << 26
"""Bytes of a chunk at most, where a row has no more."""

_SHARE = 4
"""What is held is so many times a new chunk, so that at most a part in so many is empty; the first holds a batch."""


class HostRows(AbstractRows):
    """Rows that come from a GPU in batches and go back to it as they are read.

    They lie in pinned memory, which a GPU reads and writes by itself: a batch is on its way while the network runs on,
    in a stream of its own, and is read at the bus' full speed in every pass of a fit. Chunks are powers of two, since
    torch takes these for pinned memory whatever is asked for; a machine that pins no more gives ordinary memory.
    """

    def __init__(self, n_features: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = (0, n_features), dtype, device
        self._chunks: list[Tensor] = []
        self._starts: list[int] = []

    @property
    def nbytes(self) -> int:
        """Bytes of memory that are taken; the end of the last chunk may be empty."""
        return sum(chunk.untyped_storage().nbytes() for chunk in self._chunks)

    def append(self, rows: Float[Tensor, "k d"]) -> None:
        """Copy a batch, not to be written to any more, behind the rows that are there."""
        stream = _copies(self.device)
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(self.device))
            rows.record_stream(stream)
        while len(rows):
            if not self._chunks or len(self) == self._starts[-1] + len(self._chunks[-1]):
                self._grow(rows.nbytes)
            place = self._chunks[-1][len(self) - self._starts[-1] :][: len(rows)]
            with torch.cuda.stream(stream):
                place.copy_(rows[: len(place)], non_blocking=True)
            rows, self.shape = rows[len(place) :], (len(self) + len(place), self.shape[1])

    def __getitem__(self, rows: slice) -> Float[Tensor, "k d"]:
        """See `AbstractRows.__getitem__`."""
        start, stop, _ = rows.indices(len(self))
        stream = _copies(self.device)
        if stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(stream)
        found = torch.empty(max(stop - start, 0), self.shape[1], dtype=self.dtype, device=self.device)
        row = start
        while row < stop:
            chunk = bisect_right(self._starts, row) - 1
            piece = self._chunks[chunk][row - self._starts[chunk] :][: stop - row]
            found[row - start :][: len(piece)].copy_(piece, non_blocking=True)
            row += len(piece)
        return found

    def pieces(self) -> Iterator[Float[Tensor, "k d"]]:
        """Move the rows to the CPU, piece by piece, each given up with the next; nothing is here afterwards."""
        stream = _copies(self.device)
        if stream is not None:
            stream.synchronize()
        n, self.shape = len(self), (0, self.shape[1])
        self._chunks.reverse()
        while self._chunks:
            piece = self._chunks.pop()[:n]
            n -= len(piece)
            yield piece
        self._starts.clear()

    def _grow(self, batch: int) -> None:
        d, item = self.shape[1], self.dtype.itemsize
        least = max(self.nbytes // _SHARE if self._chunks else batch, 1)
        size = 1 << (min(least, _LARGEST).bit_length() - 1)
        while size < d * item:
            size *= 2
        rows = size // max(d * item, 1)
        self._starts.append(len(self))
        self._chunks.append(pinned(size // item, self.dtype, self.device)[: rows * d].view(rows, d))


@cache
def _copies(device: torch.device) -> torch.cuda.Stream | None:
    """Return the stream in which a GPU's copies run."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def pinned(elements: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Allocate memory for what a device is sent or sends.

    torch takes the next power of two of the bytes.

    Returns:
        A vector with nothing in it: pinned where the device is a GPU and the machine has such memory left.
    """
    for again in (True, False) if device.type == "cuda" else ():
        try:
            return torch.empty(elements, dtype=dtype, pin_memory=True)
        except RuntimeError:
            if again:
                give_back()
    return torch.empty(elements, dtype=dtype)


def give_back() -> None:
    """Return pinned memory that is no longer used to the system; torch keeps it for later otherwise."""
    if torch.cuda.is_available():
        empty_host_cache()
