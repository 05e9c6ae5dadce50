"""Standardise features with the statistics of the training split alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_CHUNK = 1 << 24
"""Elements turned to float64 at a time: 128 MiB."""


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
    def fit(cls, features: Float[Tensor, "n d"]) -> Standardiser:
        """Measure the training split.

        Mean and variance are accumulated in float64 in two passes, so that a large mean costs the variance nothing.
        A feature counts as constant where its deviation is below what its own rounding can produce.

        Args:
            features: Training features, float32 or float64.

        Returns:
            The standardiser, in the features' dtype.
        """
        n, d = features.shape
        chunks = features.split(max(1, _CHUNK // max(1, d)))
        mean = torch.zeros(d, dtype=torch.float64, device=features.device)
        for chunk in chunks:
            mean += chunk.sum(0, dtype=torch.float64) / n
        variance = torch.zeros_like(mean)
        for chunk in chunks:
            variance += (chunk.double() - mean).square_().sum(0) / n
        deviation = variance.sqrt()
        constant = deviation <= 4 * torch.finfo(features.dtype).eps * mean.abs()
        scale = torch.where(constant, torch.ones_like(deviation), deviation)
        return cls(mean.to(features.dtype), scale.to(features.dtype), constant)

    @classmethod
    def none(cls, features: Float[Tensor, "n d"]) -> Standardiser:
        """Leave features as they are.

        Args:
            features: Training features.

        Returns:
            A standardiser with mean 0 and scale 1; it still knows which features do not vary.
        """
        zero = features.new_zeros(features.shape[1])
        return cls(zero, torch.ones_like(zero), cls.fit(features).constant)

    def apply_(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Standardise features in place and return them."""
        features.sub_(self.mean).div_(self.scale)
        if self.constant.any():
            features[:, self.constant] = 0
        return features
