"""Change of basis: an objective of heads that are given in other axes than the features'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.solvers.softmax_objective import Evaluation


@dataclass(frozen=True)
class ChangedBasis:
    """f(W), with heads given in the axes V: W = W' Vᵀ, and ∂f/∂W' = ∂f/∂W · V.

    Turning the heads costs two products with V an evaluation. In the eigenvectors of the Gram matrix the preconditioner
    is then diagonal, where applying it in the features' axes takes four. What is minimised is the same function of W
    for any invertible V, so that the rounding of V does not move the optimum.

    Attributes:
        objective: The objective of heads in the features' axes.
        axes: V, orthonormal columns, in the objective's precision.
    """

    objective: Callable[[Float[Tensor, "p m e"], Float[Tensor, " p"], bool], Evaluation]
    axes: Float[Tensor, "d d"]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the matrix products and of what is returned."""
        return self.axes.dtype

    def __call__(self, heads: Float[Tensor, "p m e"], l2: Float[Tensor, " p"], with_curvature: bool) -> Evaluation:
        """Evaluate heads (weights in the axes and, last, bias), each at its own L2 value."""
        found = self.objective(_turned(heads, self.axes.T), l2, with_curvature)
        return replace(found, gradient=_turned(found.gradient, self.axes))


def _turned(heads: Float[Tensor, "p m e"], axes: Float[Tensor, "d d"]) -> Float[Tensor, "p m e"]:
    found = torch.empty_like(heads)
    found[..., :-1], found[..., -1] = heads[..., :-1] @ axes, heads[..., -1]
    return found
