"""Neighbour search: the nearest training samples of others, found exactly and block by block."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import BLOCK, AbstractRows, Features, placed_blocks
from layerprobe.probing.solvers.threads import threads_for

Distance: TypeAlias = Literal["euclidean", "cosine"]

_WIDEST = 1 << 13
"""Training samples that others are compared with at a time, at most."""


def nearest_neighbours(
    train: Features,
    queries: Float[Tensor, "q d"] | AbstractRows,
    k: int,
    metric: Distance = "euclidean",
    elements: int = BLOCK,
) -> Int[Tensor, "q k"]:
    """Find the nearest training samples by their places, the nearest first: all distances, `elements` at a time.

    Queries x are ranked by ‖y‖² - 2 x·y, which is ‖x - y‖² up to what is the same for all y; by cosine after every
    sample has been brought to length 1. Of equal distances, as they come out in the features' precision, the earlier
    training sample is the nearer one.
    """
    (n, d), q = train.shape, len(queries)
    wide = max(1, min(n, _WIDEST, elements // max(d, 1)))
    distance = torch.full((q, k), torch.inf, dtype=train.dtype, device=train.device)
    place = torch.zeros(q, k, dtype=torch.int64, device=train.device)
    with threads_for(2.0 * n * q * d):
        for known, samples in placed_blocks(train, wide * d):
            samples = _measured(samples, metric)
            lengths = samples.square().sum(1)
            for rows, part in placed_blocks(queries, elements * d // max(wide, d)):
                found = torch.addmm(lengths, _measured(part.to(train.device), metric), samples.T, alpha=-2)
                found = torch.cat([distance[rows], found], 1)
                columns = _smallest(found, k)
                distance[rows] = found.gather(1, columns)
                earlier = place[rows].gather(1, columns.clamp(max=k - 1))
                place[rows] = torch.where(columns < k, earlier, columns + (known.start - k))
    return place


def _measured(samples: Float[Tensor, "n d"], metric: Distance) -> Float[Tensor, "n d"]:
    return torch.nn.functional.normalize(samples, dim=1) if metric == "cosine" else samples


def _smallest(values: Float[Tensor, "q m"], k: int) -> Int[Tensor, "q k"]:
    """Find the columns of each row's k smallest values in their order; of equal values the first columns."""
    smallest, columns = values.topk(min(k + 1, values.shape[1]), dim=1, largest=False)
    columns, tied = columns[:, :k], smallest[:, k - 1] == smallest[:, -1]
    if values.shape[1] > k and tied.any():
        # `topk` takes any of those that are as large as the last one: take the first of them.
        rows, last = values[tied], smallest[tied, k - 1 : k]
        below, equal = rows < last, rows == last
        kept = below | (equal & (equal.cumsum(1) <= k - below.sum(1, keepdim=True)))
        columns[tied] = kept.nonzero()[:, 1].view(-1, k)
    columns = columns.sort(1).values
    return columns.gather(1, values.gather(1, columns).sort(dim=1, stable=True).indices)
