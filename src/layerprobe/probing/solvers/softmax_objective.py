"""The objective of multinomial logistic regression, and its derivatives, for many heads at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from layerprobe.probing.features.row_blocks import BLOCK, Features

_ROWS = 512
"""Samples in one product. Several products of this size side by side, one for each thread, are up to twice as fast as
one long product with few columns, since a block of samples then stays in one core's cache."""

_SCORES = 1 << 18
"""Scores computed at a time: their few temporaries then stay in the cache as well."""

_COLUMNS, _LONG = 128, 2048
"""Columns from which a product is not thin, and samples in one then: to add up in float64 the results of short ones,
each as large as all weights, takes longer than to make them."""

_FEW = 64
"""Classes up to which a product with `basis` takes less than the calls of its form."""

_DEVICE_SCORES = 1 << 24
"""The same on a GPU, in one product: there it is a call's fixed cost that counts. 64 MiB in float32."""


def basis(c: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "c m"]:
    """Orthonormal columns that span the scores whose sum over the classes is zero; m = c - 1.

    Softmax ignores a shift common to all classes, and the penalty's optimum has none: in this basis the problem has no
    flat direction. With e the last column of the identity, the columns are I - a·11ᵀ above a last row of 1/√c.
    """
    top = torch.eye(c - 1, dtype=dtype, device=device) - _shift(c)
    return torch.cat([top, torch.full((1, c - 1), 1 / math.sqrt(c), dtype=dtype, device=device)])


def of_classes(heads: Float[Tensor, "*k m e"]) -> Float[Tensor, "*k c e"]:
    """Return `basis` times heads by its form, in c·e operations and not c²·e."""
    c, total = heads.shape[-2] + 1, heads.sum(-2, keepdim=True)
    return torch.cat([heads - _shift(c) * total, total / math.sqrt(c)], -2)


def of_contrasts(every: Float[Tensor, "*k c e"]) -> Float[Tensor, "*k m e"]:
    """Return the transpose of `basis` times what is known of every class, by its form."""
    c, above = every.shape[-2], every[..., :-1, :]
    return above + (every[..., -1:, :] / math.sqrt(c) - _shift(c) * above.sum(-2, keepdim=True))


@dataclass(frozen=True)
class Evaluation:
    """Objective and derivatives of several heads.

    Attributes:
        objective: (Weighted) mean cross-entropy + ½·l2·‖W‖², in float64.
        gradient: With respect to the weights and, last, the bias, in the coordinates of `basis`.
        curvature: Mean over the samples of Qᵀ(diag(p) - ppᵀ)Q; None where not asked for.
    """

    objective: Float[Tensor, " p"]
    gradient: Float[Tensor, "p m e"]
    curvature: Float[Tensor, "p m m"] | None


@dataclass(frozen=True)
class SoftmaxObjective:
    """f(W, b) = mean cross-entropy over the samples + ½·l2·‖W‖²_F.

    The residual p - onehot(y) has the entry -Σ_{j≠y} p_j at y, and the loss is -log(1 - Σ_{j≠y} p_j). The sum has
    positive terms alone: no digit is lost where the loss is small, as it is on separable data. Sums over samples are
    accumulated in float64.

    Attributes:
        features: The samples, float32 or float64.
        targets: Class indices; every class has a sample.
        n_classes: Number of classes.
        dtype: Precision of the matrix products and of what is returned.
        weights: What a sample of each class counts, of mean 1 over the samples; None where all count the same.
    """

    features: Features
    targets: Int[Tensor, " n"]
    n_classes: int
    dtype: torch.dtype
    weights: Float[Tensor, " c"] | None = None

    def __call__(self, heads: Float[Tensor, "p m e"], l2: Float[Tensor, " p"], with_curvature: bool) -> Evaluation:
        """Evaluate heads (weights and, last, bias, in the coordinates of `basis`), each at its own L2 value."""
        (p, _, e), n, c = heads.shape, len(self.features), self.n_classes
        every = of_classes(heads) if c > _FEW else self._basis @ heads
        weight, bias = every[:, :, :-1].reshape(p * c, e - 1), every[:, :, -1:].reshape(p * c, 1)
        loss = slope = products = torch.zeros((), dtype=torch.float64, device=heads.device)
        gradient = torch.zeros(p * c, e - 1, dtype=torch.float64, device=heads.device)
        for x, labels in in_blocks(self.features, self.targets, self.dtype, p * c):
            k, r, _ = x.shape
            own = labels.view(k, 1, 1, r).expand(k, p, 1, r).reshape(k * p, 1, r)
            logs = scored(weight, bias, x).view(k * p, c, r).log_softmax(1)
            own_log = logs.gather(1, own)
            shares = logs.exp_()
            counted = None if self.weights is None else self.weights.to(self.dtype)[own]
            if with_curvature:
                weighted = shares if counted is None else shares * counted
                products = (weighted @ shares.mT).view(k, p, c, c).sum(0, dtype=torch.float64) + products
            shares.scatter_(1, own, 0.0)
            others = shares.sum(1, keepdim=True)
            # By the logarithm of the own class's share only where that is not near 1.
            losses = torch.where(others < 0.5, torch.log1p(-others), own_log)
            residual = shares.scatter_(1, own, others.neg_())
            if counted is not None:
                losses, residual = losses * counted, residual.mul_(counted)
            residual = residual.view(k, p * c, r)
            loss = losses.view(k, p, r).sum((0, 2), dtype=torch.float64) + loss
            gradient += summed_products(residual, x)
            slope = residual.sum((0, 2), dtype=torch.float64) + slope
        wide = heads[:, :, :-1].double()
        penalty = l2.view(-1, 1, 1) * wide
        every = torch.cat([gradient.view(p, c, e - 1), slope.view(p, c, 1)], 2)
        contrasts = of_contrasts if c > _FEW else self._basis.double().T.matmul
        found = contrasts(every) / n
        found[:, :, :-1] += penalty
        objective = 0.5 * (penalty * wide).sum((1, 2)) - loss / n
        reduced = contrasts(contrasts(covariance(products / -n)).mT) if with_curvature else None
        return Evaluation(objective, found.to(self.dtype), reduced)

    @cached_property
    def _basis(self) -> Float[Tensor, "c m"]:
        return basis(self.n_classes, self.dtype, self.features.device)


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


def summed_products(residual: Float[Tensor, "k q r"], x: Float[Tensor, "k r d"]) -> Float[Tensor, "q d"]:
    """Sum of the products of k blocks: in float64, or that of a single block."""
    return residual[0] @ x[0] if len(x) == 1 else torch.bmm(residual, x).sum(0, dtype=torch.float64)


def in_blocks(
    features: Features, labels: Shaped[Tensor, " n"], dtype: torch.dtype, columns: int
) -> Iterator[tuple[Float[Tensor, "k r d"], Shaped[Tensor, "k r"]]]:
    """All samples, as many products of `_ROWS` at a time as `_SCORES` allows; one of many columns, and on a GPU.

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
    if columns >= _COLUMNS:
        length = at_a_time = -(-n // -(-n // _LONG))
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
