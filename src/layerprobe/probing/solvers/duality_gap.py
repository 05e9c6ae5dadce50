"""Duality gap of softmax heads: a bound on the distance to the optimum that needs no optimum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import BLOCK, Features
from layerprobe.probing.solvers.softmax_objective import covariance

_ELEMENTS = 1 << 19
"""Scores in one block of rows."""

_CONVERTED = 1 << 20
"""Features that a processor turns to float64 at a time: its cache holds them, and no memory is asked of the system. Of
few heads a certificate then takes half of the time."""

_COLUMNS = 512
"""Scores of a sample at a time, on a CPU, whose cache then holds a block's; only of samples in memory, which are read
again for each."""

_KEPT_BYTES = 1 << 28
"""Scores are kept for the second pass up to this size, and of more than two classes computed again beyond it."""


@dataclass(frozen=True)
class Certificate:
    """What can be said of heads in float64.

    Attributes:
        objective: (Weighted) mean cross-entropy + ½·l2·‖W‖².
        bound: A value that no head's objective can be below; 0 where nothing better is known.
        slope: Norm of the gradient.
        separated: Whether every sample's own class has the strictly largest score.
    """

    objective: Float[Tensor, " p"]
    bound: Float[Tensor, " p"]
    slope: Float[Tensor, " p"]
    separated: Bool[Tensor, " p"]


def certify(
    features: Features,
    targets: Int[Tensor, " n"],
    weight: Float[Tensor, "p c d"],
    bias: Float[Tensor, "p c"],
    l2: Float[Tensor, " p"],
    weights: Float[Tensor, " c"] | None = None,
    dtype: torch.dtype = torch.float64,
) -> Certificate:
    r"""Evaluate heads, and bound the optimum from below by duality.

    A sample's loss is \(\max_q \langle q - y, z \rangle + H(q)\) over distributions q with entropy H, reached at
    q = softmax(z). Putting one fixed q_i for each sample makes the objective smaller everywhere, and its minimum over
    W and b is then known: with \(M = \frac1n \sum_i (q_i - y_i) x_i^\top\),
    \[ D(q) = \tfrac1n \sum_i H(q_i) - \lVert M \rVert^2 / (2\,\mathrm{l2}),
       \quad\text{provided}\quad \tfrac1n \sum_i (q_i - y_i) = 0; \]
    it is \(-\infty\) otherwise, since the bias has no penalty. At q = softmax(Wx + b), M = ∂f/∂W - l2·W, and if the
    bias's gradient g is zero, objective - D = ‖∂f/∂W‖²/(2·l2).

    g is never quite zero. So q is tilted: q'_ij = q_ij (1 + δ_j - Σ_k q_ik δ_k), which still sums to one, with
    A δ = -g for A the mean of diag(q_i) - q_i q_iᵀ. The tilt moves the mean of q by Aδ, so that q' meets the condition
    exactly; it is a distribution while no factor is negative, which holds near the optimum. Then D(q') bounds the
    optimum with no approximation but float64's rounding. Where the tilt is too large or l2 = 0, the bound is 0.

    Where a sample counts v_i, the weights have mean 1: each of these means is the one of v_i times its terms. The tilt
    of a sample does not depend on v_i, A and g do, and Aδ = -g still makes the weighted mean of q' - y zero.

    Args:
        features: The samples.
        targets: Class indices; every class has a sample.
        weight: Weights, float64.
        bias: Biases, float64.
        l2: L2 value of each head.
        weights: What a sample of each class counts, of mean 1 over the samples; None where all count the same.
        dtype: Precision of what is computed of each sample; sums over samples are of float64. In float32 the bound is
            one up to about 1e-5 of the objective.

    Returns:
        The certificates.
    """
    n, c, p = len(features), weight.shape[1], len(weight)
    group = max(1, min(p, _KEPT_BYTES // (dtype.itemsize * n * c)))
    if isinstance(features, Tensor) and features.device.type == "cpu":
        group = min(group, max(1, _COLUMNS // c))
    certificate = _certify_binary if c == 2 else _certify
    parts = [
        certificate(features, targets, weight[i : i + group], bias[i : i + group], l2[i : i + group], weights, dtype)
        for i in range(0, p, group)
    ]
    return Certificate(
        torch.cat([part.objective for part in parts]),
        torch.cat([part.bound for part in parts]),
        torch.cat([part.slope for part in parts]),
        torch.cat([part.separated for part in parts]),
    )


@dataclass
class _Blocks:
    """Samples, some rows at a time, and their scores by p heads of c classes."""

    features: Features
    targets: Tensor
    weight: Tensor
    bias: Tensor
    weights: Tensor | None
    dtype: torch.dtype

    def __post_init__(self) -> None:
        (self.p, self.c, self.d), self.n = self.weight.shape, len(self.features)
        self.rows = _rows(self.features, self.p * self.c)
        columns = self.p * self.c
        self._every = self.weight.view(columns, self.d).to(self.dtype)
        self._shift = self.bias.reshape(columns, 1).to(self.dtype)
        self._keep = self.dtype.itemsize * self.n * columns <= _KEPT_BYTES
        self._kept: dict[int, Tensor] = {}

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Read each block: its start, its samples, and their own classes' places."""
        for start in range(0, self.n, self.rows):
            x = self.features[start : start + self.rows].to(self.dtype)
            yield start, x, self.targets[start : start + self.rows].view(1, 1, -1).expand(self.p, 1, len(x))

    def scores(self, start: int, x: Tensor, own: Tensor) -> Tensor:
        """Return the scores less the own class's (p c r); the second time they may be written to."""
        if start in self._kept:
            return self._kept.pop(start)
        u = torch.addmm(self._shift, self._every, x.T).view(self.p, self.c, len(x))
        u.sub_(u.gather(1, own))
        if self._keep:
            self._kept[start] = u
        return u

    def counted(self, values: Tensor, own: Tensor) -> Tensor:
        """Return what is summed over the samples (p _ r), each times what it counts."""
        return values if self.weights is None else values * self.weights[own].to(self.dtype)

    def zeros(self, *shape: int) -> Tensor:
        """Return zeros to sum in."""
        return torch.zeros(*shape, dtype=torch.float64, device=self.features.device)


def _certify(
    features: Features,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor,
    l2: Tensor,
    weights: Tensor | None,
    dtype: torch.dtype,
) -> Certificate:
    blocks = _Blocks(features, targets, weight, bias, weights, dtype)
    p, c, d, n = blocks.p, blocks.c, blocks.d, blocks.n
    totals: dict[int, Tensor] = {}
    loss, mean, products = torch.zeros_like(l2), blocks.zeros(p, c), blocks.zeros(p, c, c)
    separated = torch.ones(p, dtype=torch.bool, device=features.device)
    for start, x, own in blocks:
        u = blocks.scores(start, x, own)
        total, highest = _log_total(u, own)
        totals[start] = total
        separated &= (highest < 0).all(2).all(1)
        loss += blocks.counted(total, own).sum((1, 2), dtype=torch.float64)
        # The same numbers as below: the condition is met by what is tilted, whatever its rounding.
        q = (u - total).exp_()
        products -= blocks.counted(q, own) @ q.mT
        others = q.scatter_(1, own, 0.0).sum(1, keepdim=True)
        mean += blocks.counted(q.scatter_(1, own, -others), own).sum(2, dtype=torch.float64)
    mean /= n
    delta = (-_solve(mean, covariance(products / n)) * (l2 > 0)[:, None]).to(dtype)
    entropy, moment, lowest = _tilted(blocks, delta, totals)
    penalty = weight.square().sum((1, 2))
    square = (moment / n).square().view(p, -1).sum(1)
    dual = entropy / n - square / (2 * l2)
    possible = (lowest > -0.5) & (l2 > 0)
    slope = ((moment / n).view(p, c, d) + l2.view(p, 1, 1) * weight).square().sum((1, 2)) + mean.square().sum(1)
    return Certificate(
        loss / n + 0.5 * l2 * penalty,
        torch.where(possible, dual, torch.zeros_like(dual)).clamp_min(0.0),
        slope.sqrt(),
        separated,
    )


def _tilted(
    blocks: _Blocks, delta: Float[Tensor, "p c"], totals: Mapping[int, Tensor]
) -> tuple[Float[Tensor, " p"], Float[Tensor, "pc d"], Float[Tensor, " p"]]:
    """Return Σ H(q'), Σ (q' - y) xᵀ and the least factor less 1, from log Σ exp of each block's scores."""
    entropy, moment = blocks.zeros(blocks.p), blocks.zeros(blocks.p * blocks.c, blocks.d)
    lowest = blocks.zeros(blocks.p)
    for start, x, own in blocks:
        log_q = blocks.scores(start, x, own).sub_(totals[start])
        tilted = log_q.exp()
        tilt = delta[:, :, None] - (delta[:, None, :] @ tilted)
        lowest = torch.minimum(lowest, tilt.amin((1, 2)))
        log_q += tilt.log1p()
        tilted = tilted.mul_(tilt.add_(1)).scatter_(1, own, 0.0)
        rest = tilted.sum(1, keepdim=True)
        # -Σ q' log q'; the own class, near 1 where the loss is small, through 1 - Σ of the others
        own_entropy = _entropy_beside(rest) - log_q.mul_(tilted).sum(1, keepdim=True)
        entropy += blocks.counted(own_entropy, own).sum((1, 2), dtype=torch.float64)
        moment += blocks.counted(tilted.scatter_(1, own, -rest), own).view(len(moment), -1) @ x
    return entropy, moment, lowest


def _certify_binary(
    features: Features,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor,
    l2: Tensor,
    weights: Tensor | None,
    dtype: torch.dtype,
) -> Certificate:
    """Do `_certify` for two classes, by the other class's margin u alone, in half of its operations.

    With t = ±1 and o = σ(u) the other class's probability, A = h̄·[[1, -1], [-1, 1]] for h̄ the mean of o(1 - o), and
    g = (-r, r) for r the mean of -t·o; so δ_1 - δ_0 = D = -r/h̄. The other class's factor is 1 - t(1 - o)D, the own
    one's 1 + t·o·D.
    """
    (p, _, d), n, device = weight.shape, len(features), features.device
    rows = _rows(features, 2 * p)
    wide, shift = (weight[:, 1] - weight[:, 0]).to(dtype), (bias[:, 1:] - bias[:, :1]).to(dtype)
    kept: list[tuple[Tensor | None, Tensor, Tensor, Tensor | None]] = []
    loss, mean, curvature, entropy = (torch.zeros(p, dtype=torch.float64, device=device) for _ in range(4))
    moment = torch.zeros(p, d, dtype=torch.float64, device=device)
    separated = torch.ones(p, dtype=torch.bool, device=device)

    def summed(values: Tensor, counted: Tensor | None) -> Tensor:
        return values.sum(1, dtype=torch.float64) if counted is None else values.double() @ counted

    for start in range(0, n, rows):
        x, own = features[start : start + rows].to(dtype), targets[start : start + rows]
        signs, counted = 2 * own.to(dtype) - 1, None if weights is None else weights[own]
        u = (wide @ x.T + shift) * -signs
        separated &= (u < 0).all(1)
        others = u.sigmoid()
        loss += summed(F.softplus(u, threshold=40), counted)
        mean -= summed(others * signs, counted)
        curvature += summed(others * (-u).sigmoid(), counted)
        # What is one block need not be read again.
        kept.append((x if rows >= n else None, u, signs, counted))
    tilt = (torch.where(curvature > 0, -mean / curvature.where(curvature > 0, 1.0), 0.0) * (l2 > 0)).to(dtype)
    lowest = torch.zeros_like(l2)
    for start, (block, u, signs, counted) in zip(range(0, n, rows), kept, strict=True):
        x = features[start : start + rows].to(dtype) if block is None else block
        others, along = u.sigmoid(), tilt[:, None] * signs
        factor = -along * (-u).sigmoid()
        lowest = torch.minimum(lowest, torch.minimum(factor, along * others).amin(1))
        tilted = others * (1 + factor)
        log_tilted = torch.log1p(factor.clamp_min(-0.5)) - F.softplus(-u, threshold=40)
        # -Σ q' log q'; the own class, near 1 where the loss is small, through 1 - the other
        entropy += summed(_entropy_beside(tilted) - tilted * log_tilted, counted)
        moment -= (tilted * (signs if counted is None else signs * counted.to(dtype))) @ x
    mean, moment = mean / n, moment / n
    # ‖M‖² is that of both classes.
    dual = entropy / n - moment.square().sum(1) / l2
    possible = (lowest > -0.5) & (l2 > 0)
    gradient = torch.stack([-moment, moment], 1) + l2.view(p, 1, 1) * weight
    return Certificate(
        loss / n + 0.5 * l2 * weight.square().sum((1, 2)),
        torch.where(possible, dual, torch.zeros_like(dual)).clamp_min(0.0),
        (gradient.square().sum((1, 2)) + 2 * mean.square()).sqrt(),
        separated,
    )


def _rows(features: Features, columns: int) -> int:
    """Say how many samples to look at together, with some scores each."""
    d = max(features.shape[1], 1)
    converted = _CONVERTED if features.device.type == "cpu" else BLOCK
    return max(1, min(max(256, min(_ELEMENTS // columns, converted // d)), BLOCK // d))


def _log_total(
    u: Float[Tensor, "p c r"], own: Int[Tensor, "p 1 r"]
) -> tuple[Float[Tensor, "p 1 r"], Float[Tensor, "p 1 r"]]:
    """Return the losses, log Σ exp u, and the largest of the other scores, from scores less the own class's.

    An own score that was not finite makes both NaN.
    """
    others = u.scatter(1, own, -torch.inf)
    highest = others.amax(1, keepdim=True) + u.gather(1, own)
    largest = highest.clamp_min(0)
    total = others.sub_(largest).exp_().sum(1, keepdim=True)
    return largest + torch.log1p(total + torch.expm1(-largest)), highest


def _entropy_beside(rest: Tensor) -> Tensor:
    """Compute -q log q for q = 1 - rest, to all digits where the rest is small."""
    rest = rest.clamp_max(1.0)
    return -torch.special.xlog1py(1 - rest, -rest)


def _solve(slope: Float[Tensor, "p c"], curvature: Float[Tensor, "p c c"]) -> Float[Tensor, "p c"]:
    """Find the smallest solution of curvature · x = slope; both are orthogonal to the all-ones vector."""
    a, turn = torch.linalg.eigh(curvature)
    usable = a > 1e-13 * a[:, -1:]
    turned = (turn.mT @ slope[:, :, None])[:, :, 0]
    return (turn @ torch.where(usable, turned / a.where(usable, 1.0), 0.0)[:, :, None])[:, :, 0]
