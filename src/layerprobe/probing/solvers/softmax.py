"""The objective of multinomial logistic regression, and its derivatives, for many heads at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_CHUNK = 1 << 20
"""Scores computed at a time: small enough for the cache, large enough for matrix products to be fast."""


def basis(c: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "c m"]:
    """Orthonormal columns that span the scores whose sum over the classes is zero; m = c - 1.

    Softmax ignores a shift common to all classes, and the penalty's optimum has none: in this basis the problem has no
    flat direction. With e the last column of the identity, the columns are I - a·11ᵀ above a last row of 1/√c.
    """
    shift = (1 / c) / (1 - 1 / math.sqrt(c))
    top = torch.eye(c - 1, dtype=dtype, device=device) - shift
    return torch.cat([top, torch.full((1, c - 1), 1 / math.sqrt(c), dtype=dtype, device=device)])


@dataclass(frozen=True)
class Evaluation:
    """Objective and derivatives of several heads.

    Attributes:
        objective: Mean cross-entropy + ½·l2·‖W‖², in float64.
        gradient: With respect to the weights and, last, the bias, in the coordinates of `basis`.
        curvature: Mean over the samples of Qᵀ(diag(p) - ppᵀ)Q; None where not asked for.
        separated: Whether every sample's own class has the strictly largest score.
    """

    objective: Float[Tensor, " p"]
    gradient: Float[Tensor, "p m e"]
    curvature: Float[Tensor, "p m m"] | None
    separated: Bool[Tensor, " p"]


@dataclass(frozen=True)
class SoftmaxObjective:
    """f(W, b) = mean cross-entropy over the samples + ½·l2·‖W‖²_F.

    With margins u_j = z_j - z_y against the sample's own class, the loss is log(1 + Σ_{j≠y} exp u_j), and the
    residual p - onehot(y) has the entry -Σ_{j≠y} p_j at y. Both are sums of positive terms: no digit is lost where the
    loss is small, as it is on separable data. Sums over samples are accumulated in float64.

    Attributes:
        features: The samples, float32 or float64.
        targets: Class indices; every class has a sample.
        n_classes: Number of classes.
        dtype: Precision of the matrix products and of what is returned.
    """

    features: Float[Tensor, "n d"]
    targets: Int[Tensor, " n"]
    n_classes: int
    dtype: torch.dtype

    def __call__(self, heads: Float[Tensor, "p m e"], l2: Float[Tensor, " p"], with_curvature: bool) -> Evaluation:
        """Evaluate heads (weights and, last, bias, in the coordinates of `basis`), each at its own L2 value."""
        (p, m, e), n, c = heads.shape, len(self.features), self.n_classes
        device, q = heads.device, basis(c, self.dtype, heads.device)
        weight, bias = heads[:, :, :-1].reshape(p * m, e - 1), heads[:, :, -1:].reshape(p * m, 1)
        loss = torch.zeros(p, dtype=torch.float64, device=device)
        gradient = torch.zeros(p * m, e, dtype=torch.float64, device=device)
        curvature = torch.zeros(p, c, c, dtype=torch.float64, device=device) if with_curvature else None
        separated = torch.ones(p, dtype=torch.bool, device=device)
        rows = max(256, _CHUNK // (p * c))
        for start in range(0, n, rows):
            x = self.features[start : start + rows].to(self.dtype)
            r = len(x)
            own = self.targets[start : start + rows].view(1, 1, r).expand(p, 1, r)
            u = _expand(torch.addmm(bias, weight, x.T).view(p, m, r), q)
            u -= u.gather(1, own)
            largest = u.amax(1, keepdim=True)  # at least 0, the own class's
            u.sub_(largest).exp_()
            mine = torch.exp(-largest)
            u.scatter_(1, own, 0.0)
            others = u.sum(1, keepdim=True)
            separated &= (others < 1).all(2).squeeze(1) & (largest == 0).all(2).squeeze(1)
            # log(e^-M + Σ_{j≠y} e^{u_j - M}) + M; at M = 0 this is log1p(others)
            loss += (largest + torch.log1p(others + torch.expm1(-largest))).sum((1, 2), dtype=torch.float64)
            share = 1 / (mine + others)
            u *= share
            if curvature is not None:
                u.scatter_(1, own, mine * share)
                curvature += torch.diag_embed(u.sum(2, dtype=torch.float64)) - u @ u.transpose(1, 2)
            u.scatter_(1, own, -others * share)
            residual = _contract(u).reshape(p * m, r)
            gradient[:, :-1] += residual @ x
            gradient[:, -1] += residual.sum(1, dtype=torch.float64)
        gradient = (gradient / n).view(p, m, e)
        wide = heads[:, :, :-1].double()
        gradient[:, :, :-1] += l2.view(-1, 1, 1) * wide
        objective = loss / n + 0.5 * l2 * wide.square().sum((1, 2))
        reduced = None if curvature is None else (q.double().T @ (curvature / n) @ q.double()).to(self.dtype)
        return Evaluation(objective, gradient.to(self.dtype), reduced, separated)


def _expand(scores: Float[Tensor, "p m r"], q: Float[Tensor, "c m"]) -> Float[Tensor, "p c r"]:
    """Q times the reduced scores, without a matrix product."""
    p, m, r = scores.shape
    total = scores.sum(1, keepdim=True)
    full = scores.new_empty(p, m + 1, r)
    torch.add(scores, total, alpha=float(q[0, 0]) - 1, out=full[:, :m])
    torch.mul(total, 1 / math.sqrt(m + 1), out=full[:, m:])
    return full


def _contract(residual: Float[Tensor, "p c r"]) -> Float[Tensor, "p m r"]:
    """Qᵀ times residuals whose sum over the classes is zero."""
    c = residual.shape[1]
    return residual[:, :-1] + residual[:, -1:] / (math.sqrt(c) - 1)
