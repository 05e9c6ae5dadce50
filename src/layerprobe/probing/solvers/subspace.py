"""Samples in the coordinates of a subspace that holds all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features, placed_blocks


@dataclass(frozen=True)
class AbstractSpan(ABC):
    """Samples in an orthonormal basis of fewer axes than there are features.

    The optimum of every L2-penalised head lies in the span of the samples, and its norm does not depend on the basis:
    so a head may be fitted to the coordinates and carried back.

    Attributes:
        coordinates: The samples.
    """

    coordinates: Float[Tensor, "n r"]

    @abstractmethod
    def back(self, heads: Float[Tensor, "p c r"], features: Features) -> Float[Tensor, "p c d"]:
        """Carry heads to the features; their norm stays.

        Args:
            heads: Weights in coordinates, float64.
            features: The samples that the span was made of.

        Returns:
            Weights for the features, float64.
        """


@dataclass(frozen=True)
class SampleSpan(AbstractSpan):
    """The span of fewer samples than there are features.

    With XXᵀ/n = U Λ Uᵀ, the samples have the coordinates U (nΛ)^½ in the orthonormal basis Xᵀ U (nΛ)^-½. In float64.

    Attributes:
        weights: U (nΛ)^-½: what makes the basis of the samples. The basis itself, d × r, is never held.
    """

    weights: Float[Tensor, "n r"]

    def back(self, heads: Float[Tensor, "p c r"], features: Features) -> Float[Tensor, "p c d"]:
        """See `AbstractSpan.back`."""
        p, c, _ = heads.shape
        shares = (heads @ self.weights.T).reshape(p * c, -1)
        found = torch.zeros(p * c, features.shape[1], dtype=torch.float64, device=heads.device)
        for place, rows in placed_blocks(features):
            found += shares[:, place] @ rows.double()
        return found.view(p, c, -1)


@dataclass(frozen=True)
class AxesSpan(AbstractSpan):
    """A subspace whose axes are held.

    Attributes:
        axes: Orthonormal columns, float64.
    """

    axes: Float[Tensor, "d r"]

    def back(self, heads: Float[Tensor, "p c r"], features: Features) -> Float[Tensor, "p c d"]:
        """See `AbstractSpan.back`."""
        return heads @ self.axes.T
