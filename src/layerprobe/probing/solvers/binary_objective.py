"""The objective of logistic regression with two classes, and its derivatives, for many heads at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.solvers.softmax_objective import Evaluation, in_blocks, scored, summed_products


@dataclass(frozen=True)
class BinaryObjective:
    r"""What `SoftmaxObjective` is for two classes, in a third of its operations.

    In the coordinates of `basis` a sample has one score s, and the scores of the classes are ∓s/√2. Its loss is
    log(1 + exp u) with u = -√2·t·s the other class's margin, t = ±1; so ∂loss/∂s = -√2·t·σ(u), and
    Qᵀ(diag(p) - ppᵀ)Q = 2·σ(u)·σ(-u). No digit is lost where u is large on either side.

    Attributes:
        features: The samples, float32 or float64.
        targets: 0 or 1; both have a sample.
        dtype: Precision of the matrix products and of what is returned.
        weights: What a sample of each class counts, of mean 1 over the samples; None where all count the same.
    """

    features: Features
    targets: Int[Tensor, " n"]
    dtype: torch.dtype
    weights: Float[Tensor, " 2"] | None = None

    @cached_property
    def signs(self) -> Float[Tensor, " n"]:
        """-√2·t of each sample."""
        return math.sqrt(2) * (1 - 2 * self.targets).to(self.dtype)

    def __call__(self, heads: Float[Tensor, "p 1 e"], l2: Float[Tensor, " p"], with_curvature: bool) -> Evaluation:
        """Evaluate heads (weights and, last, bias, in the coordinates of `basis`), each at its own L2 value."""
        p, n = len(heads), len(self.features)
        weight, bias = heads[:, 0, :-1], heads[:, 0, -1:]
        loss = slope = curvature = torch.zeros((), dtype=torch.float64, device=heads.device)
        gradient = torch.zeros_like(weight, dtype=torch.float64)
        for x, signs in in_blocks(self.features, self.signs, self.dtype, 2 * p):
            u = scored(weight, bias, x).mul_(signs[:, None])
            losses, residual = F.softplus(u, threshold=40), u.sigmoid()
            if self.weights is not None:
                counted = self.weights.to(self.dtype)[(signs < 0).long()][:, None]
                losses, residual = losses * counted, residual * counted
            loss = losses.sum((0, 2), dtype=torch.float64) + loss
            if with_curvature:
                curvature = (u.neg_().sigmoid_().mul_(residual)).sum((0, 2), dtype=torch.float64) + curvature
            residual *= signs[:, None]
            gradient += summed_products(residual, x)
            slope = residual.sum((0, 2), dtype=torch.float64) + slope
        wide = weight.double()
        found = torch.cat([torch.addcmul(gradient / n, l2[:, None], wide), (slope / n)[:, None]], 1)
        objective = loss / n + 0.5 * l2 * wide.square().sum(1)
        reduced = (2 / n * curvature).view(p, 1, 1) if with_curvature else None
        return Evaluation(objective, found.to(self.dtype)[:, None], reduced)
