"""The objective of multinomial logistic regression, and its derivatives, for many heads at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from layerprobe.probing.features.row_blocks import BLOCK, Features

_ROWS = 512
"""Samples in one product. Several products of this size side by side, one for each thread, are up to twice as fast as
one long product with few columns, since a block of samples then stays in one core's cache."""

_SCORES = 1 << 18
"""Scores computed at a time: their few temporaries then stay in the cache as well."""

_DEVICE_SCORES = 1 << 24
"""The same on a GPU, in one product: there it is a call's fixed cost that counts. 64 MiB in float32."""


def basis(c: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "c m"]:
    """Orthonormal columns that span the scores whose sum over the classes is zero; m = c - 1.

    Softmax ignores a shift common to all classes, and the penalty's optimum has none: in this basis the problem has no
    flat direction. With e the last column of the identity, the columns are I - a·11ᵀ above a last row of 1/√c.
    """
    top = torch.eye(c - 1, dtype=dtype, device=device) - _shift(c)
    return torch.cat([top, torch.full((1, c - 1), 1 / math.sqrt(c), dtype=dtype, device=device)])


@dataclass(frozen=True)
class Evaluation:
    """Objective and derivatives of several heads.

    Attributes:
        objective: Mean cross-entropy + ½·l2·‖W‖², in float64.
        gradient: With respect to the weights and, last, the bias, in the coordinates of `basis`.
        curvature: Mean over the samples of Qᵀ(diag(p) - ppᵀ)Q; None where not asked for.
    """

    objective: Float[Tensor, " p"]
    gradient: Float[Tensor, "p m e"]
    curvature: Float[Tensor, "p m m"] | None


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

    features: Features
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
        for x, labels in in_blocks(self.features, self.targets, self.dtype, p * c):
            k, r, _ = x.shape
            own = labels.view(k, 1, 1, r).expand(k, p, 1, r).reshape(k * p, 1, r)
            scores = scored(weight, bias, x)
            u = _expand(scores.view(k * p, m, r))
            u -= u.gather(1, own)
            largest = u.amax(1, keepdim=True)  # at least 0, the own class's
            u.sub_(largest).exp_()
            mine = torch.exp(-largest)
            u.scatter_(1, own, 0.0)
            others = u.sum(1, keepdim=True)
            # log(e^-M + Σ_{j≠y} e^{u_j - M}) + M; at M = 0 this is log1p(others)
            losses = largest + torch.log1p(others + torch.expm1(-largest))
            loss += losses.view(k, p, r).sum((0, 2), dtype=torch.float64)
            share = 1 / (mine + others)
            u *= share
            if curvature is not None:
                u.scatter_(1, own, mine * share)
                curvature -= (u @ u.mT).view(k, p, c, c).sum(0, dtype=torch.float64)
            u.scatter_(1, own, -others * share)
            residual = _contract(u).view(k, p * m, r)
            gradient[:, :-1] += torch.bmm(residual, x).sum(0, dtype=torch.float64)
            gradient[:, -1] += residual.sum((0, 2), dtype=torch.float64)
        gradient = (gradient / n).view(p, m, e)
        wide = heads[:, :, :-1].double()
        gradient[:, :, :-1] += l2.view(-1, 1, 1) * wide
        objective = loss / n + 0.5 * l2 * wide.square().sum((1, 2))
        reduced = None if curvature is None else q.double().T @ covariance(curvature / n) @ q.double()
        return Evaluation(objective, gradient.to(self.dtype), reduced)


def log_odds(scores: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """Log-odds, log p/(1 - p), for the softmax p of scores, in float64; apart also where p rounds to 0 or 1.

    Args:
        scores: Scores of the classes, at least two.

    Returns:
        The log-odds of each class against all others.
    """
    z = scores.double()
    first = z.argmax(1, keepdim=True)
    log_p = z.log_softmax(1)
    # Every class but the first has p ≤ ½, where log(1 - p) loses nothing.
    odds = log_p - torch.log1p(-log_p.exp().clamp_max(0.5))
    others = z.scatter(1, first, -torch.inf).logsumexp(1, keepdim=True)
    return odds.scatter(1, first, z.gather(1, first) - others)


def scored(
    weight: Float[Tensor, "q d"], bias: Float[Tensor, "q 1"], x: Float[Tensor, "k r d"]
) -> Float[Tensor, "k q r"]:
    """Wx + b for blocks of samples; a GPU's libraries want the samples first, by up to three times."""
    k, q = len(x), len(weight)
    if x.device.type == "cpu":
        return torch.baddbmm(bias.expand(k, q, 1), weight.expand(k, q, -1), x.mT)
    return torch.baddbmm(bias.T.expand(k, 1, q), x, weight.T.expand(k, -1, q)).mT.contiguous()


def in_blocks(
    features: Features, labels: Shaped[Tensor, " n"], dtype: torch.dtype, columns: int
) -> Iterator[tuple[Float[Tensor, "k r d"], Shaped[Tensor, "k r"]]]:
    """All samples, as many products of `_ROWS` at a time as `_SCORES` allows, and at least two; on a GPU, one.

    Args:
        features: The samples.
        labels: A value of each.
        dtype: Precision of the features in a block.
        columns: Scores of each sample.

    Yields:
        k blocks of r samples, and their values.
    """
    n, d = features.shape
    # A length that divides n leaves no short block behind, which would cost as many calls as a long one.
    length = n if n <= 8 * _ROWS else next((r for r in range(_ROWS * 5 // 4, _ROWS // 2, -1) if n % r == 0), _ROWS)
    at_a_time = length * max(2, _SCORES // (columns * length))
    if features.device.type != "cpu":
        length = at_a_time = min(n, max(1, _DEVICE_SCORES // columns))
    # What is read or converted is a copy.
    if not isinstance(features, Tensor) or features.dtype != dtype:
        at_a_time = max(1, min(at_a_time, BLOCK // max(d, 1)))
        length = min(length, at_a_time)
    start = 0
    while start < n:
        stop = min(start + at_a_time, n)
        rows = min(length, stop - start)
        stop -= (stop - start) % rows
        yield features[start:stop].to(dtype).view(-1, rows, d), labels[start:stop].view(-1, rows)
        start = stop


def covariance(products: Float[Tensor, "p c c"]) -> Float[Tensor, "p c c"]:
    """Mean of diag(p) - ppᵀ from the mean of -ppᵀ, by its rows' sum of zero.

    mean p_j - mean p_j² has no digit left where every p_j is close to 0 or 1; a sum of products of one sign has all.

    Args:
        products: Mean of -ppᵀ; its diagonal is overwritten.

    Returns:
        The mean of diag(p) - ppᵀ.
    """
    diagonal = products.diagonal(dim1=1, dim2=2)
    diagonal.zero_()
    diagonal.copy_(-products.sum(2))
    return products


def _shift(c: int) -> float:
    return (1 / c) / (1 - 1 / math.sqrt(c))


def _expand(scores: Float[Tensor, "p m r"]) -> Float[Tensor, "p c r"]:
    """Q times the reduced scores, without a matrix product."""
    p, m, r = scores.shape
    total = scores.sum(1, keepdim=True)
    full = scores.new_empty(p, m + 1, r)
    torch.add(scores, total, alpha=-_shift(m + 1), out=full[:, :m])
    torch.mul(total, 1 / math.sqrt(m + 1), out=full[:, m:])
    return full


def _contract(residual: Float[Tensor, "p c r"]) -> Float[Tensor, "p m r"]:
    """Qᵀ times residuals whose sum over the classes is zero."""
    c = residual.shape[1]
    return residual[:, :-1] + residual[:, -1:] / (math.sqrt(c) - 1)
