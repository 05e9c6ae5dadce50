"""Features of a GPU in the machine's own memory."""

from __future__ import annotations

from bisect import bisect_right

from jaxtyping import Float
from torch import Tensor


class HostStore:
    """What a `SpillFile` is on disk, in memory; it is given back when nothing refers to it any more."""

    def __init__(self) -> None:
        self._pieces: list[Tensor] = []
        self._starts: list[int] = []
        self._end = 0

    def write(self, values: Float[Tensor, "k d"]) -> int:
        """Append rows.

        Args:
            values: The rows, on the CPU; they belong to the store from now on.

        Returns:
            Where they start, in bytes.
        """
        self._pieces.append(values.contiguous())
        self._starts.append(self._end)
        self._end += values.nbytes
        return self._starts[-1]

    def read(self, values: Float[Tensor, "k d"], offset: int) -> None:
        """Fill rows that were written together.

        Args:
            values: Where to, on the CPU.
            offset: From where, in bytes; the start of a row.
        """
        piece = bisect_right(self._starts, offset) - 1
        rows = self._pieces[piece]
        first = (offset - self._starts[piece]) // max(rows.shape[1] * rows.dtype.itemsize, 1)
        values.copy_(rows[first : first + len(values)])
