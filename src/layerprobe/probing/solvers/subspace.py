"""Samples in the coordinates of a subspace that holds all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features, placed_blocks

_COLUMNS = 1 << 24
"""Elements turned to float64 at a time: 128 MiB."""

PANEL = 256
"""Columns of a symmetric product that are made at a time, so that little is made above its diagonal."""

_EPS = torch.finfo(torch.float64).eps

_REST = 1e-13
"""What is left of a sample beside those before it, as a share of the longest one's square, that counts as rounding."""


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
    r"""The span of fewer samples than there are features, in float64.

    The samples have the coordinates XB in the orthonormal basis \(B = X^\top A\), and XBV in that basis turned by V.

    Attributes:
        weights: A: what makes the basis of the samples. The basis itself, d × r, is never held.
        turn: V, orthogonal; None where the basis is not turned.
    """

    weights: Float[Tensor, "n r"]
    turn: Float[Tensor, "r r"] | None = None

    @classmethod
    def of(cls, kernel: Float[Tensor, "n n"]) -> SampleSpan:
        r"""Factor the samples' products.

        By a Cholesky factor with pivots: the samples whose rest is largest come first, and those that depend on them up
        to rounding have no axis of their own. With these samples \(X_1\) first and \(XX^\top = LL^\top\), L are the
        coordinates, and \(X_1^\top L_1^{-\top}\) is the basis.

        Args:
            kernel: XXᵀ, finite, float64, on the CPU, its lower triangle; overwritten.
        """
        n, largest = len(kernel), float(kernel.diagonal().amax())
        # In LAPACK's order of columns the lower triangle is the upper one.
        upper, order, rank, _ = dpstrf(kernel.numpy().T, tol=max(n * _EPS, _REST) * largest, overwrite_a=1)
        rank, places = max(int(rank), 1), torch.from_numpy(order).long() - 1
        if not largest > 0:
            return cls(kernel.new_zeros(n, 1), kernel.new_zeros(n, 1))
        factor = torch.from_numpy(upper[:rank]).triu().T
        coordinates, weights = kernel.new_empty(n, rank), kernel.new_zeros(n, rank)
        coordinates[places] = factor
        eye = torch.eye(rank, dtype=kernel.dtype)
        weights[places[:rank]] = torch.linalg.solve_triangular(factor[:rank].T, eye, upper=True)
        return cls(coordinates, weights)

    def turned(self, turn: Float[Tensor, "r r"]) -> SampleSpan:
        """Return the same in a basis that is turned."""
        return SampleSpan(self.coordinates @ turn, self.weights, turn)

    def along(self, heads: Float[Tensor, "p c d"], features: Features) -> Float[Tensor, "p c r"]:
        """Return the part of heads on the features that lies in the span: what `back` brings back, up to rounding.

        Args:
            heads: Weights for the features, float64.
            features: The samples that the span was made of.
        """
        p, c, d = heads.shape
        scores = torch.cat([rows.double() @ heads.reshape(p * c, d).T for _, rows in placed_blocks(features)])
        found = (scores.T @ self.weights).view(p, c, -1)
        return found if self.turn is None else found @ self.turn

    def back(self, heads: Float[Tensor, "p c r"], features: Features) -> Float[Tensor, "p c d"]:
        """See `AbstractSpan.back`."""
        p, c, _ = heads.shape
        heads = heads if self.turn is None else heads @ self.turn.T
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


def kernel(features: Features) -> Tensor:
    """Compute XXᵀ in float64, its lower triangle."""
    n, d = features.shape
    products = torch.zeros(n, n, dtype=torch.float64, device=features.device)
    for i, rows in _placed(features):
        for j, others in [(i, rows)] if isinstance(features, Tensor) else _placed(features, i):
            step = max(1, _COLUMNS // max(len(rows), len(others)))
            for start in range(0, d, step):
                left, right = (part[:, start : start + step].double() for part in (others, rows))
                for k in range(0, len(rows), PANEL):
                    panel, top = right[k : k + PANEL], k if i == j else 0
                    at = slice(j + top, j + len(others)), slice(i + k, i + k + len(panel))
                    products[at].addmm_(left[top:], panel.T)
    return products


def _placed(features: Features, first: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Return blocks of rows with their places: all at once where they are in memory."""
    n, d = features.shape
    rows = n if isinstance(features, Tensor) else max(1, 4 * _COLUMNS // max(d, 1))
    for start in range(first, n, rows):
        yield start, features[start : min(start + rows, n)]
