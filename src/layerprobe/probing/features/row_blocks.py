"""Matrices of features, one row for each sample, that need not be in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 1 << 24
"""Elements that are read or turned to float64 at a time: 64 MiB in float32."""


class AbstractRows(ABC):
    """An (n, d) matrix that is read some rows at a time.

    Attributes:
        shape: n and d.
        dtype: Precision of what is read.
        device: Where what is read lies.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, rows: slice) -> Float[Tensor, "k d"]:
        """Rows `start:stop`; the tensor belongs to the caller."""


Features: TypeAlias = Float[Tensor, "n d"] | AbstractRows
"""Features of one layer and split. A slice of rows of a tensor is a view, of anything else a copy."""


class JoinedRows(AbstractRows):
    """One matrix below another.

    Args:
        first: The upper rows.
        second: The lower rows.
    """

    def __init__(self, first: Features, second: Float[Tensor, "v d"] | AbstractRows) -> None:
        self.first, self.second = first, second
        self.shape = (len(first) + len(second), first.shape[1])
        self.dtype, self.device = first.dtype, first.device

    def __getitem__(self, rows: slice) -> Float[Tensor, "k d"]:
        """See `AbstractRows.__getitem__`."""
        start, stop, _ = rows.indices(len(self))
        n = len(self.first)
        upper = self.first[min(start, n) : min(stop, n)]
        return torch.cat([upper, self.second[max(start - n, 0) : max(stop - n, 0)]])


def blocks(features: Features, elements: int = BLOCK) -> Iterator[Float[Tensor, "k d"]]:
    """All rows in order, at most `elements` numbers at a time and at least one row.

    Args:
        features: The matrix.
        elements: Numbers in one block.

    Returns:
        The blocks, not to be written to.
    """
    return (rows for _, rows in placed_blocks(features, elements))


def placed_blocks(features: Features, elements: int = BLOCK) -> Iterator[tuple[slice, Float[Tensor, "k d"]]]:
    """All rows in order as `blocks` gives them.

    Args:
        features: The matrix.
        elements: Numbers in one block.

    Yields:
        Which rows these are, and the block, not to be written to.
    """
    n, d = features.shape
    rows = max(1, elements // max(d, 1))
    for start in range(0, n, rows):
        place = slice(start, min(start + rows, n))
        yield place, features[place]


def some_rows(features: Features, which: Int[Tensor, " k"]) -> Float[Tensor, "k d"]:
    """Some rows, read in blocks.

    Args:
        features: The matrix.
        which: Places of the rows, each once.

    Returns:
        The rows, in the order of the matrix.
    """
    wanted, found = which.sort().values, []
    for place, rows in placed_blocks(features):
        here = wanted[(wanted >= place.start) & (wanted < place.stop)] - place.start
        found.append(rows[here.to(rows.device)])
    return torch.cat(found)
