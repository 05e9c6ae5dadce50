"""Batch axis of a tensor: which axis runs over samples, and whether the samples stay apart."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

_COMPARED = 4096
"""How many elements of a sample are compared at most."""

_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-2}
"""Kernels round differently for other batch sizes (TF32 more than others); a mixing layer changes far more."""

LARGEST = 1e30
"""Beyond it, a value is a mask."""


class BatchAxis(NamedTuple):
    """How the samples lie in a tensor.

    Attributes:
        axis: The axis that runs over samples.
        fold: How many entries of that axis belong to each sample, one sample after the other; 1 in the plain case.
        part: Which entries of the last axis count, from where to where; None for all of them.
        inner: Whether a folded axis holds the first entry of every sample, then the second of every sample, and so on,
            as where two views of a batch are concatenated, or time and samples are merged with time first.
    """

    axis: int
    fold: int
    part: tuple[int, int] | None = None
    inner: bool = False

    def samples_first(self, tensor: Tensor, n_samples: int) -> Tensor | None:
        """Return a view with an axis over samples first; a folded axis is split, and the rest of it stays in place.

        Returns:
            The view; None where the axis does not hold that many samples.
        """
        size = tensor.shape[self.axis] if self.axis < tensor.ndim else 0
        if not size or (size % n_samples if self.fold > 1 else size != n_samples):
            return None
        if self.inner:
            found = tensor.unflatten(self.axis, (-1, n_samples)).movedim(self.axis + 1, 0)
        else:
            tensor = tensor.unflatten(self.axis, (n_samples, -1)) if self.fold > 1 else tensor
            found = tensor.movedim(self.axis, 0) if self.axis else tensor
        return found if self.part is None else found[..., slice(*self.part)]

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one sample, from that of a batch."""
        folded = (self.fold,) if self.fold > 1 else ()
        found = (*shape[: self.axis], *folded, *shape[self.axis + 1 :])
        return found if self.part is None else (*found[:-1], self.part[1] - self.part[0])

    def sample_axis(self, axis: int | None, n_axes: int) -> int | None:
        """Say where an axis of a batch is in one sample; None for the samples' own, and where a sample has one axis."""
        if axis is None or axis == self.axis or n_axes < 2:
            return None
        return axis - 1 if axis > self.axis and self.fold == 1 else axis


def batch_axis(two: tuple[int, ...], three: tuple[int, ...]) -> BatchAxis | None:
    """Find how the samples lie in a tensor by its shapes for two samples and for three.

    Returns:
        The axis with its fold; None unless exactly one axis grows, in proportion to the samples.
    """
    if len(two) != len(three) or 0 in two:
        return None
    grown = [axis for axis, (a, b) in enumerate(zip(two, three, strict=True)) if a != b]
    if len(grown) != 1:
        return None
    axis = grown[0]
    fold, rest = divmod(two[axis], 2)
    return BatchAxis(axis, fold) if not rest and three[axis] == 3 * fold else None


def excerpt(tensor: Tensor, rows: BatchAxis, n_samples: int) -> Tensor | None:
    """Copy elements of the second sample to the CPU, the same ones for every batch; None if there is none."""
    if (found := rows.samples_first(tensor, n_samples)) is None:
        return None
    sample = found[1].flatten()
    if len(sample) > _COMPARED:
        sample = sample.index_select(0, drawn_elements(len(sample), _COMPARED, str(sample.device)))
    return sample.detach().cpu().clone()


@lru_cache(maxsize=256)
def drawn_elements(size: int, count: int, device: str) -> Tensor:
    """Draw the places among a sample's elements that are compared: always the same ones, with repetition."""
    # An own generator: the network's random numbers stay what they are.
    return torch.randint(size, (count,), generator=torch.Generator().manual_seed(0)).to(device)


def agree(left: Tensor, right: Tensor) -> bool:
    """Tell whether two excerpts hold the same values, up to the rounding of other kernels."""
    if left.shape != right.shape:
        return False
    if left.dtype == right.dtype and left.numel() and torch.equal(left, right):  # as often, at a tenth of the time
        return True
    tolerance = _TOLERANCE.get(left.dtype, 5e-2)
    left, right = left.double(), right.double()
    same = (left == right) | (left.isnan() & right.isnan())
    size = left.abs()
    typical = size[size < LARGEST]
    scale = typical.mean() if typical.numel() else torch.zeros((), dtype=torch.float64)
    close = (left - right).abs() <= tolerance * (size + scale)
    return bool((same | close).double().mean() > 0.999)
