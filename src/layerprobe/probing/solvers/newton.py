"""Newton's method for logistic regression along a path of L2 values, where a Hessian costs little."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features, placed_blocks
from layerprobe.probing.solvers.l2_path import AbstractContinuation, Continuation, Fit, Samples
from layerprobe.probing.solvers.softmax_objective import basis, covariance

LARGEST = 1024
"""Parameters of a head up to which a Hessian is made."""

_SAMPLE_BYTES = 1 << 27
"""What the samples may take in float64."""

_BLOCK = 1 << 20
"""Elements that are weighted at a time for the Hessian: 8 MiB."""

_CHEAP = 10.0
"""Products with a direction up to which a Hessian's cost is worth it from the start."""

_SQUARE, _THIN, _EACH, _CALLS = 5e10, 5e9, 1e9, 2e-4
"""Operations per second of products of two matrices, of a matrix and a vector, and of one element after the other, and
seconds of a pass's calls: for their ratio alone."""


def products_worth(n: int, size: int, m: int) -> tuple[float, float]:
    """How many products with a direction a Hessian costs, and its factor.

    Args:
        n: Samples.
        size: Parameters of a class, its bias included.
        m: Classes but one.
    """
    whole = m * size
    factor = whole**3 / 3 / _SQUARE
    one = (4.0 * n * whole + 2 * whole**2) / _THIN + n * m**2 / _EACH + _CALLS
    made = m * (m + 1) * n * size**2 / _SQUARE + n * m**2 * (m + size) / _EACH
    return (made + factor) / one, factor / one


def possible(features: Features, n_classes: int) -> bool:
    """Whether a Hessian may be made: on a CPU, for samples that are few enough.

    Args:
        features: The samples, or their coordinates.
        n_classes: Number of classes, at least 2.
    """
    n, size = len(features), features.shape[1] + 1
    fits = (n_classes - 1) * size <= LARGEST and 8 * n * size <= _SAMPLE_BYTES
    return fits and features.device.type == "cpu"


def pays_at_once(features: Features, n_classes: int) -> bool:
    """Whether Newton's method is worth it from the start, and not only where L-BFGS has failed for long.

    Args:
        features: The samples, or their coordinates.
        n_classes: Number of classes, at least 2.
    """
    dear, _ = products_worth(len(features), features.shape[1] + 1, n_classes - 1)
    return possible(features, n_classes) and dear <= _CHEAP


def newton_bytes(d: int, c: int, n: int | None = None) -> int:
    """What the samples in float64, a Hessian, its factor and what they are made of take at most.

    Args:
        d: Features.
        c: Classes.
        n: Samples; by default, as many as there may be.
    """
    size = (c - 1) * (d + 1)
    if size > LARGEST:
        return 0
    samples = _SAMPLE_BYTES if n is None else min(_SAMPLE_BYTES, 8 * n * (d + 1))
    return samples + 2 * min(8 * _BLOCK, samples) + 32 * size**2


@dataclass(frozen=True)
class _Point:
    """A head and what is known there; the objective is in nats.

    Attributes:
        head: Weights and, last, bias, in the coordinates of `basis`.
        objective: Mean cross-entropy + ½·l2·‖W‖².
        gradient: Its gradient.
        shares: Probability of each class for each sample.
        trace: Trace of the mean over the samples of their losses' second derivatives by the scores.
        gap: The duality gap's main term, and what the bias is worth; relative.
    """

    head: Float[Tensor, "m e"]
    objective: float
    gradient: Float[Tensor, "m e"]
    shares: Float[Tensor, "c n"]
    trace: float
    gap: float


class Newton(AbstractContinuation):
    r"""Follows the optimum with Newton's steps, in float64.

    With \(B_i = Q^\top (\mathrm{diag}(q_i) - q_i q_i^\top) Q\) for the probabilities \(q_i\) of a sample (times what
    it counts, where classes are weighted), a step solves
    \((\frac1n \sum_i B_i \otimes x_i x_i^\top + \mathrm{l2})\, p = -g\), where x has a last feature of ones that is not
    penalised. It is solved by conjugate gradients with the factored matrix of an earlier head and penalty as
    preconditioner, its part of the loss scaled by the trace of the mean of B: near that head a few products with the
    samples do. When such products have cost as much as a factor, it is made anew for the penalty; as much as a Hessian,
    that is made anew at the head. So neither is made much more often than if one knew.

    Args:
        samples: The samples; kept in float64.
        target: The gap to reach.
        max_iterations: Passes over the samples, there and back, for each value at most.
    """

    def __init__(self, samples: Samples, target: float, max_iterations: int) -> None:
        self.samples, self.target, self.max_iterations = samples, target, max_iterations
        n, d = samples.features.shape
        self._x = torch.ones(n, d + 1, dtype=torch.float64)
        axes = None if samples.axes is None else samples.axes.double()
        for place, rows in placed_blocks(samples.features):
            self._x[place, :-1] = rows if axes is None else rows.double() @ axes
        self._basis = basis(samples.n_classes, torch.float64, self._x.device)
        self._own = samples.targets[None, None]
        self._counted = None if samples.weights is None else samples.weights.double()[samples.targets]
        self._penalised = torch.ones(d + 1, dtype=torch.float64)
        self._penalised[-1] = 0
        self._dear, self._factor_dear = products_worth(n, d + 1, samples.n_classes - 1)
        self._hessian: Tensor | None = None
        self._hessian_trace = 1.0
        self._factor: Tensor | None = None
        self._factored = 0.0, 0.0
        self._owed = 0.0

    def fitting(self) -> Fit:
        """See `AbstractContinuation.fitting`; the Hessian is kept."""

        def fit(starts: Tensor, value: float, target: float, allowed: int) -> tuple[Tensor, int]:
            points = self._at(starts.double(), value)
            end, spent = self._descend(min(points, key=lambda point: point.gap), value, target, allowed)
            return end.head, spent

        return fit

    def refine(
        self, heads: Float[Tensor, "q m e"], l2: Float[Tensor, " q"], target: float
    ) -> tuple[Float[Tensor, "q m e"], Int[Tensor, " q"]]:
        """See `AbstractContinuation.refine`."""
        fit = self.fitting()
        found = [fit(head[None], v, target, self.max_iterations) for head, v in zip(heads, l2.tolist(), strict=True)]
        return torch.stack([head for head, _ in found]), torch.tensor([spent for _, spent in found])

    def _at(self, heads: Float[Tensor, "k m e"], l2: float) -> list[_Point]:
        (k, m, e), n = heads.shape, len(self._x)
        logs = (self._basis @ (heads.reshape(k * m, e) @ self._x.T).view(k, m, n)).log_softmax(1)
        own = self._own.expand(k, 1, n)
        own_log, shares = logs.gather(1, own), logs.exp()
        residual = shares.scatter(1, own, 0.0)
        others = residual.sum(1, keepdim=True)
        # To all digits where the own class's share is near 1.
        losses = torch.where(others < 0.5, torch.log1p(-others), own_log)
        residual.scatter_(1, own, others.neg_())
        weighted = shares
        if self._counted is not None:
            losses, residual, weighted = losses * self._counted, residual.mul_(self._counted), shares * self._counted
        loss = losses.sum((1, 2)) / -n
        penalty = l2 * self._penalised * heads
        gradient = ((self._basis.T @ residual).view(k * m, n) @ self._x).view(k, m, e) / n + penalty
        objective = loss + 0.5 * (penalty * heads).sum((1, 2))
        curvature = self._basis.T @ covariance(weighted @ shares.mT / -n) @ self._basis
        trace = curvature.diagonal(dim1=1, dim2=2).sum(1)
        curvature.diagonal(dim1=1, dim2=2).add_(1e-12 * trace[:, None] + 1e-300)
        slope = gradient[:, :, -1:]
        worth = (slope * torch.linalg.solve_ex(curvature, slope)[0]).sum((1, 2))
        gap = (gradient[:, :, :-1].square().sum((1, 2)) / (2 * l2) + worth) / objective.clamp_min(1e-300)
        numbers = torch.stack([objective, trace, gap.nan_to_num(math.inf)], 1).tolist()
        return [_Point(heads[i], f, gradient[i], shares[i], t, gap) for i, (f, t, gap) in enumerate(numbers)]

    def _descend(self, point: _Point, l2: float, target: float, allowed: int) -> tuple[_Point, int]:
        spent = 1
        while point.gap > target and spent <= allowed:
            step, spent = self._step(point, l2, target, spent, allowed)
            slope, length = float((point.gradient * step).sum()), 1.0
            better: _Point | None = None
            while better is None and slope < 0 and length > 1e-6 and spent <= allowed:
                there, spent = self._at((point.head + length * step)[None], l2)[0], spent + 1
                # Where the objective's digits run out, the gap tells what is better.
                falls = there.objective <= point.objective + 1e-4 * length * slope
                if falls or (there.objective <= point.objective * (1 + 1e-14) and there.gap < point.gap):
                    better = there
                length *= 0.5 if length > 0.2 else 0.2
            if better is None:
                break
            point = better
        return point, spent

    def _step(self, point: _Point, l2: float, target: float, spent: int, allowed: int) -> tuple[Tensor, int]:
        """Newton's step, by preconditioned conjugate gradients."""
        if self._hessian is None:
            self._make(point)
        curvature = self._curvature(point)
        residual = -point.gradient
        first = float(residual.norm())
        # Below this norm the residual does not stand in the certificate's way; far away, Newton's own error does.
        enough = max(0.3 * math.sqrt(2 * l2 * target * point.objective), min(0.1, math.sqrt(point.gap)) * first)
        step, solve, products = torch.zeros_like(residual), self._solver(point, l2, fresh=False), 0
        z = solve(residual)
        direction, along = z, float((residual * z).sum())
        while along > 0 and spent <= allowed:
            product = self._product(curvature, direction, l2)
            spent, products, self._owed = spent + 1, products + 1, self._owed + 1
            curved = float((direction * product).sum())
            if not curved > 0:
                break
            step = step + along / curved * direction
            residual = residual - along / curved * product
            if float(residual.norm()) <= enough:
                break
            stale = self._owed > self._dear
            if stale:
                self._make(point)
            if stale or (products > self._factor_dear and self._factored != (l2, point.trace)):
                solve = self._solver(point, l2, fresh=True)
                z = solve(residual)
                direction, along = z, float((residual * z).sum())
                continue
            z = solve(residual)
            after = float((residual * z).sum())
            direction, along = z + after / along * direction, after
        return (step if bool(step.any()) else z), spent

    def _product(self, curvature: Float[Tensor, "m m n"], vector: Float[Tensor, "m e"], l2: float) -> Tensor:
        along = vector @ self._x.T
        along = curvature[0] * along if len(curvature) == 1 else (curvature * along).sum(1)
        return along @ self._x / len(self._x) + l2 * self._penalised * vector

    def _make(self, point: _Point) -> None:
        """The loss's Hessian; its blocks of classes below the diagonal alone, since no more is read."""
        (n, e), m = self._x.shape, len(point.head)
        curvature = self._curvature(point) / n
        found = torch.zeros(m * e, m * e, dtype=torch.float64)
        rows = max(1, _BLOCK // e)
        for start in range(0, n, rows):
            x = self._x[start : start + rows]
            for a in range(m):
                for b in range(a + 1):
                    weighted = x * curvature[a, b, start : start + rows, None]
                    found[a * e : (a + 1) * e, b * e : (b + 1) * e].addmm_(weighted.T, x)
        self._hessian, self._hessian_trace, self._factor, self._owed = found, point.trace, None, 0.0

    def _curvature(self, point: _Point) -> Float[Tensor, "m m n"]:
        """Second derivative of each sample's part of the loss by its scores: a sum of squares, which loses no digit."""
        away = self._basis[:, :, None] - (self._basis.T @ point.shares)[None]
        shares = point.shares if self._counted is None else point.shares * self._counted
        return ((shares[:, None] * away)[:, :, None] * away[:, None]).sum(0)

    def _solver(self, point: _Point, l2: float, *, fresh: bool) -> Callable[[Tensor], Tensor]:
        """The preconditioner: the factor that is there, or one of the Hessian that is there for this penalty."""
        if self._factor is None or (fresh and self._factored != (l2, point.trace)):
            assert self._hessian is not None
            matrix = point.trace / self._hessian_trace * self._hessian
            diagonal = matrix.diagonal()
            diagonal += l2 * self._penalised.repeat(len(point.head))
            floor, failed = 1e-14, 1
            while failed and floor < 1:
                diagonal += floor * float(diagonal.amax())
                self._factor, info = torch.linalg.cholesky_ex(matrix)
                failed, floor = int(info), floor * 100
            self._factored = l2, point.trace
        factor = self._factor
        assert factor is not None
        return lambda vector: torch.cholesky_solve(vector.reshape(-1, 1), factor).view_as(vector)


class HandedOver(AbstractContinuation):
    """L-BFGS up to the first value that costs it as many evaluations as a Hessian would, then Newton's method.

    Args:
        first: L-BFGS.
    """

    def __init__(self, first: Continuation) -> None:
        self.samples, self.target, self.max_iterations = first.samples, first.target, first.max_iterations
        n, d = first.samples.features.shape
        self._first, self._after = first, math.ceil(products_worth(n, d + 1, first.samples.n_classes - 1)[0])
        self._over = False

    @cached_property
    def _second(self) -> Newton:
        return Newton(self.samples, self.target, self.max_iterations)

    def fitting(self) -> Fit:
        """See `AbstractContinuation.fitting`."""
        first = self._first.fitting()

        def fit(starts: Tensor, value: float, target: float, allowed: int) -> tuple[Tensor, int]:
            spent = 0
            if not self._over:
                head, spent = first(starts, value, target, min(allowed, self._after))
                self._over = self._after < spent <= allowed
                starts = head[None]
            if self._over:
                head, more = self._second.fitting()(starts, value, target, allowed - spent)
                spent += more
            return head.double(), spent

        return fit

    def refine(
        self, heads: Float[Tensor, "q m e"], l2: Float[Tensor, " q"], target: float
    ) -> tuple[Float[Tensor, "q m e"], Int[Tensor, " q"]]:
        """See `AbstractContinuation.refine`."""
        return self._second.refine(heads, l2, target)
