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
        """Return rows `start:stop`; the tensor belongs to the caller."""


Features: TypeAlias = Float[Tensor, "n d"] | AbstractRows
"""Features of one layer and split. A slice of rows of a tensor is a view, of anything else a copy."""


class JoinedRows(AbstractRows):
    """One matrix below another."""

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
    """Read all rows in order, at most `elements` numbers at a time and at least one row; not to be written to."""
    return (rows for _, rows in placed_blocks(features, elements))


def placed_blocks(features: Features, elements: int = BLOCK) -> Iterator[tuple[slice, Float[Tensor, "k d"]]]:
    """Read all rows in order as `blocks` gives them.

    Yields:
        Which rows these are, and the block, not to be written to.
    """
    n, d = features.shape
    rows = max(1, elements // max(d, 1))
    for start in range(0, n, rows):
        place = slice(start, min(start + rows, n))
        yield place, features[place]


def some_rows(
    features: Features, which: Int[Tensor, " k"], into: Float[Tensor, "k d"] | None = None
) -> Float[Tensor, "k d"]:
    """Read some rows, each once, in blocks, in the order of the matrix; into a new one of its precision by default."""
    wanted, done = which.sort().values, 0
    if into is None:
        into = torch.empty(len(which), features.shape[1], dtype=features.dtype, device=features.device)
    for place, rows in placed_blocks(features):
        here = wanted[(wanted >= place.start) & (wanted < place.stop)] - place.start
        part, here = into[done : done + len(here)], here.to(rows.device)
        done += len(here)
        if (part.dtype, part.device) == (rows.dtype, rows.device):
            torch.index_select(rows, 0, here, out=part)  # no copy in between
        else:
            part.copy_(rows[here])
    return into


class PickedRows(AbstractRows):
    """Some rows of a matrix that is read in blocks; their places are ascending, each once."""

    def __init__(self, rows: AbstractRows, which: Int[Tensor, " k"]) -> None:
        self.rows, self.which = rows, which
        self.shape, self.dtype, self.device = (len(which), rows.shape[1]), rows.dtype, rows.device

    def __getitem__(self, rows: slice) -> Float[Tensor, "k d"]:
        """See `AbstractRows.__getitem__`; the matrix is read where there are such rows, in blocks."""
        which, step, found = self.which[rows], max(1, BLOCK // max(self.shape[1], 1)), []
        while len(which):
            start = int(which[0])
            here = which[which < start + step]
            found.append(self.rows[start : int(here[-1]) + 1][(here - start).to(self.device)])
            which = which[len(here) :]
        return torch.cat(found) if found else self.rows[:0]


def picked_rows(features: Features, which: Int[Tensor, " k"]) -> Float[Tensor, "k d"] | AbstractRows:
    """Pick some rows: a copy of what is in memory, or few; of anything else what reads them in blocks.

    `which` are places in ascending order, each once.
    """
    if isinstance(features, Tensor):
        return features[which.to(features.device)]
    picked = PickedRows(features, which)
    return picked[:] if len(which) * features.shape[1] <= BLOCK else picked


def gathered(features: Features, which: Int[Tensor, " k"]) -> Float[Tensor, "k d"]:
    """Gather some rows in any order, read one by one where they are not in memory."""
    if isinstance(features, Tensor):
        return features[which.to(features.device)]
    return torch.cat([features[row : row + 1] for row in which.tolist()])
