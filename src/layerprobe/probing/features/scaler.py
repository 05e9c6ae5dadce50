"""Scaler of features, with the statistics of the training split alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layerprobe.probing.features.row_blocks import BLOCK, AbstractRows, Features, blocks

_CACHED = 1 << 18
"""Elements that a processor works on at a time: its cache holds them, in float64 too."""

_SQUARES = (1e-280, 1e280)
"""Variances in float64 between which no square has lost digits."""


@dataclass(frozen=True)
class Standardiser:
    """Subtracts the training mean and divides by the training standard deviation.

    Attributes:
        mean: Training mean of each feature.
        scale: Training standard deviation of each feature; 1 where the feature is constant.
        constant: Which features do not vary on train. They become exactly zero.
    """

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]
    constant: Bool[Tensor, " d"]

    @classmethod
    def fit(cls, features: Features) -> Standardiser:
        """Measure the training split.

        Mean and variance are accumulated in float64 in two passes, so that a large mean costs the variance nothing. A
        feature counts as constant where its deviation is below what its own rounding can produce.
        """
        n, d = features.shape
        mean = torch.zeros(d, dtype=torch.float64, device=features.device)
        for chunk in _parts(features):
            mean += chunk.sum(0, dtype=torch.float64) / n
        variance = torch.zeros_like(mean)
        for chunk in _parts(features):
            variance += (chunk.double() - mean).square_().sum(0) / n
        if features.dtype == torch.float64 and not bool(((variance > _SQUARES[0]) & (variance < _SQUARES[1])).all()):
            return cls._known(mean, _deviation(features, mean), features.dtype)
        return cls.of(mean, variance, features.dtype)

    @classmethod
    def of(cls, mean: Float[Tensor, " d"], variance: Float[Tensor, " d"], dtype: torch.dtype) -> Standardiser:
        """Standardise features of the precision `dtype` by known means and variances, both float64."""
        return cls._known(mean, variance.clamp_min(0).sqrt(), dtype)

    @classmethod
    def _known(cls, mean: Float[Tensor, " d"], deviation: Float[Tensor, " d"], dtype: torch.dtype) -> Standardiser:
        constant = deviation <= 4 * torch.finfo(dtype).eps * mean.abs()
        scale = torch.where(constant, torch.ones_like(deviation), deviation)
        return cls(mean.to(dtype), scale.to(dtype), constant)

    @classmethod
    def none(cls, features: Features) -> Standardiser:
        """Leave features as they are.

        Returns:
            A standardiser with mean 0 and scale 1; it still knows which features do not vary.
        """
        found = cls.fit(features)
        return cls(torch.zeros_like(found.mean), torch.ones_like(found.scale), found.constant)

    @cached_property
    def _some_constant(self) -> bool:
        """Read once: a GPU would be waited for at every block."""
        return bool(self.constant.any())

    def to(self, device: torch.device) -> Standardiser:
        """Return the same on another device."""
        return Standardiser(self.mean.to(device), self.scale.to(device), self.constant.to(device))

    def apply_(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Standardise features in place and return them."""
        for chunk in _parts(features):
            chunk.sub_(self.mean).div_(self.scale)
        if self._some_constant:
            features[:, self.constant] = 0
        return features

    def applied(self, features: Features) -> Features:
        """Standardise features: a tensor is changed in place, anything else whenever it is read."""
        return self.apply_(features) if isinstance(features, Tensor) else StandardisedRows(features, self)


def _deviation(features: Features, mean: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """Compute the standard deviations of float64 features, in units of which no square overflows or vanishes."""
    unit, total = torch.zeros_like(mean), torch.zeros_like(mean)
    for chunk in _parts(features):
        unit = torch.maximum(unit, (chunk - mean).abs_().amax(0))
    unit[unit == 0] = 1
    for chunk in _parts(features):
        total += ((chunk - mean) / unit).square_().sum(0) / len(features)
    return total.sqrt_() * unit


def _parts(features: Features) -> Iterator[Float[Tensor, "k d"]]:
    """Read all rows in order: of what a processor has in memory as many at a time as its cache holds."""
    in_memory = isinstance(features, Tensor) and features.device.type == "cpu"
    return blocks(features, _CACHED if in_memory else BLOCK)


class StandardisedRows(AbstractRows):
    """Rows that are standardised as they are read."""

    def __init__(self, rows: Features, standardiser: Standardiser) -> None:
        self.rows, self.standardiser = rows, standardiser
        self.shape, self.dtype, self.device = (len(rows), rows.shape[1]), rows.dtype, rows.device

    def __getitem__(self, rows: slice) -> Float[Tensor, "k d"]:
        """See `AbstractRows.__getitem__`."""
        found = self.rows[rows]
        return self.standardiser.apply_(found.clone() if isinstance(self.rows, Tensor) else found)
