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
from layerprobe.probing.solvers.softmax_objective import Evaluation, in_blocks, scored


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
    """

    features: Features
    targets: Int[Tensor, " n"]
    dtype: torch.dtype

    @cached_property
    def signs(self) -> Float[Tensor, " n"]:
        """-√2·t of each sample."""
        return math.sqrt(2) * (1 - 2 * self.targets).to(self.dtype)

    def __call__(self, heads: Float[Tensor, "p 1 e"], l2: Float[Tensor, " p"], with_curvature: bool) -> Evaluation:
        """Evaluate heads (weights and, last, bias, in the coordinates of `basis`), each at its own L2 value."""
        p, n, device = len(heads), len(self.features), heads.device
        weight, bias = heads[:, 0, :-1], heads[:, 0, -1:]
        loss = torch.zeros(p, dtype=torch.float64, device=device)
        gradient = torch.zeros(p, heads.shape[2], dtype=torch.float64, device=device)
        curvature = torch.zeros(p, dtype=torch.float64, device=device)
        for x, signs in in_blocks(self.features, self.signs, self.dtype, 2 * p):
            u = scored(weight, bias, x).mul_(signs[:, None])
            away = -u
            loss -= F.logsigmoid(away).sum((0, 2), dtype=torch.float64)
            residual = u.sigmoid()
            if with_curvature:
                curvature += (away.sigmoid_() * residual).sum((0, 2), dtype=torch.float64)
            residual *= signs[:, None]
            gradient[:, :-1] += torch.bmm(residual, x).sum(0, dtype=torch.float64)
            gradient[:, -1] += residual.sum((0, 2), dtype=torch.float64)
        gradient /= n
        wide = weight.double()
        gradient[:, :-1] += l2[:, None] * wide
        objective = loss / n + 0.5 * l2 * wide.square().sum(1)
        reduced = (2 / n * curvature).view(p, 1, 1) if with_curvature else None
        return Evaluation(objective, gradient.to(self.dtype)[:, None], reduced)
