"""Newton's method for logistic regression along a path of L2 values, for heads whose Hessian can be held."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features, placed_blocks
from layerprobe.probing.solvers.l2_path import AbstractContinuation, Fit, Samples
from layerprobe.probing.solvers.score_losses import AbstractScoreLoss, BinaryLoss, ScoreDerivatives, SoftmaxLoss
from layerprobe.probing.solvers.solver import Decompose
from layerprobe.probing.solvers.subspace import PANEL, SampleSpan

LARGEST = 1024
"""Parameters of a head up to which Newton's steps are worth it, however many the samples."""

_WIDEST = 4352
"""Parameters up to which they are where samples are few: L-BFGS takes as long there for its calls as for its products,
and for the spectrum. Nor are Hessians made that are larger. Of more than two classes, features must be fewer than
samples; of two, a Hessian is in the samples' span where these are less than half as many as features, see `wide`."""

_FEW_OF_TWO, _FEW = 31_250, 1_250
"""Samples up to which that holds, of two classes and of more; measured from 300 to 30,000 samples."""

SAMPLE_BYTES = 1 << 28
"""What the samples may take in float64."""

_BLOCK = 1 << 20
"""Elements that are weighted at a time for the Hessian: 8 MiB."""

_CLASSES = 32
"""Classes up to which a Hessian is made; with more, its blocks of classes take longer than L-BFGS does."""

_FAR = 100
"""Square of a feature's mean over its variance up to which a Hessian may be in float32, of whose seven digits it costs
two."""

_SQUARE, _FACTOR, _THIN, _EACH, _CALLS = 7e10, 2.5e10, 1.5e10, 1e9, 1e-4
"""Operations per second of products of two matrices, of a factor, of a product of a matrix and a vector, and of one
element after the other, and seconds of a pass's calls: for their ratio alone."""

_IDLE = 4
"""Steps that bring no more than rounding does, after which a precision has given what it can."""


def products_worth(n: int, size: int, m: int) -> tuple[float, float]:
    """How many products with a direction a Hessian costs, and its factor.

    Args:
        n: Samples.
        size: Parameters of a class, its bias included.
        m: Classes but one.
    """
    whole = m * size
    factor = whole**3 / 3 / _FACTOR
    one = 4.0 * n * whole / _THIN + n * m**2 / _EACH + _CALLS
    made = m * (m + 1) * n * size**2 / _SQUARE + n * m**2 * (m + size) / _EACH
    return (made + factor) / one, factor / one


def span_worth(n: int, d: int) -> float:
    """How many products with a direction the span of samples costs that are of two classes, with more features d."""
    return (2.0 * n**2 * d / _SQUARE + n**3 / 3 / _FACTOR) / (4.0 * n * d / _THIN + _CALLS)


def worth_newton(n: int, d: int, c: int) -> bool:
    """Whether Newton's steps are faster than those of L-BFGS.

    Args:
        n: Samples.
        d: Features, or coordinates.
        c: Classes, at least 2.
    """
    if n < 1 or c > _CLASSES or 8 * n * (d + 1) > SAMPLE_BYTES:
        return False
    whole = _parameters(n, d, c)
    return whole <= LARGEST or (whole <= _WIDEST and (n <= _FEW_OF_TWO if c == 2 else d < n <= _FEW))


def wide(n: int, d: int, c: int) -> bool:
    """Whether two classes have so many features that a Hessian is made in the span of the samples.

    Args:
        n: Samples.
        d: Features, or coordinates.
        c: Classes, at least 2.
    """
    return c == 2 and d > max(2 * n, LARGEST)


def _parameters(n: int, d: int, c: int) -> int:
    """Rows of a Hessian."""
    return (c - 1) * ((n if wide(n, d, c) else d) + 1)


def possible(features: Features, n_classes: int) -> bool:
    """Whether Newton's steps are taken: on a CPU, where they are worth it.

    Args:
        features: The samples, or their coordinates.
        n_classes: Number of classes, at least 2.
    """
    n, d = features.shape
    return features.device.type == "cpu" and worth_newton(n, d, n_classes)


def newton_bytes(d: int, c: int, n: int | None = None) -> int:
    """What the samples in both precisions, a Hessian, its factor and what they are made of take at most, in float64.

    Args:
        d: Features.
        c: Classes.
        n: Samples; by default, as many as there may be.
    """
    if n is None:
        return max(newton_bytes(d, c, most) for most in _most_samples(d, c))
    if not worth_newton(n, d, c):
        return 0
    samples = 8 * n * (d + 1)
    return samples * 3 // 2 + 2 * min(8 * _BLOCK, samples) + 3 * 8 * _BLOCK + 32 * _parameters(n, d, c) ** 2


def _most_samples(d: int, c: int) -> tuple[int, int]:
    """Samples at most, with Hessians in the features' own axes and in the samples' span."""
    room = SAMPLE_BYTES // (8 * (d + 1))
    own = room if (c - 1) * (d + 1) <= LARGEST else min(room, _FEW_OF_TWO if c == 2 else _FEW)
    return own, min(room, (d - 1) // 2, _WIDEST - 1)


class _Space:
    """The samples as heads are multiplied with them.

    Args:
        features: The samples, or their coordinates.
        dtype: Their own precision.
    """

    def __init__(self, features: Features, dtype: torch.dtype) -> None:
        self.features, self.dtype = features, dtype
        self._rows: dict[torch.dtype, Tensor] = {}

    def rows(self, dtype: torch.dtype) -> Float[Tensor, "n e"]:
        """The samples with a last feature of ones."""
        if dtype not in self._rows:
            n, d = self.features.shape
            x = torch.ones(n, d + 1, dtype=dtype)
            for place, rows in placed_blocks(self.features):
                x[place, :-1] = rows
            self._rows[dtype] = x
        return self._rows[dtype]

    @cached_property
    def precision(self) -> torch.dtype:
        """Precision of the Hessian and of a fit's first steps.

        Float64 where a feature's mean is so far from 0 that float32 has no digits left.
        """
        x = self.rows(self.dtype)[:, :-1]
        mean, square = x.mean(0), torch.linalg.vector_norm(x, dim=0) ** 2 / len(x)
        # Square of the mean over what is left of the mean square, each to float32's digits.
        far = (1 + 1 / _FAR) * mean.square() > square
        return torch.float64 if bool((far & (mean != 0)).any()) else self.dtype


@dataclass(frozen=True)
class _Point:
    """A head and what is known there; the objective is in nats.

    Attributes:
        head: Weights and, last, bias, in the coordinates of `basis`.
        objective: Mean cross-entropy + ½·l2·‖W‖².
        gradient: Its gradient.
        shares: What second derivatives by the scores are made of, in the precision of the products with the samples.
        classes: Mean over the samples of their losses' second derivatives by the scores.
        gap: The duality gap's main term, and what the bias is worth; relative.
    """

    head: Float[np.ndarray, "m e"]
    objective: float
    gradient: Float[np.ndarray, "m e"]
    shares: Float[np.ndarray, "r n"]
    classes: Float[np.ndarray, "m m"]
    gap: float

    @property
    def trace(self) -> float:
        """Trace of `classes`."""
        return float(self.classes.trace())


class Newton(AbstractContinuation):
    r"""Follows the optimum with Newton's steps: in the samples' own precision, in float64 from where that stands still.

    With \(B_i = Q^\top (\mathrm{diag}(q_i) - q_i q_i^\top) Q\) for the probabilities \(q_i\) of a sample (times what
    it counts, where classes are weighted), a step solves
    \((\frac1n \sum_i B_i \otimes x_i x_i^\top + \mathrm{l2})\, p = -g\), where x has a last feature of ones that is not
    penalised. It is solved by conjugate gradients: with the penalty alone as preconditioner, until products with the
    samples have cost as much as a Hessian; then with the factored Hessian of an earlier head and penalty, its part of
    the loss scaled by the trace of the mean of B. When further products have cost as much as a factor, it is made anew
    for the penalty; as much as a Hessian, that is made anew at the head. So neither is made much more often than if one
    knew.

    Where two classes have many more features than samples, a Hessian is one in the samples' span, which is made when
    products have cost as much as the span: then all goes on in its coordinates.

    What is computed of the classes' scores are some thirty calls on few numbers, in NumPy, whose calls cost the least.

    Args:
        samples: The samples, in their own axes.
        target: The gap to reach.
        max_iterations: Passes over the samples, there and back, for each value at most.
        decompose: Hands over the samples' spectrum, whose span is asked for where they are `wide`.
    """

    def __init__(self, samples: Samples, target: float, max_iterations: int, decompose: Decompose) -> None:
        self._decompose = decompose
        self.samples, self.target, self.max_iterations = samples, target, max_iterations
        n, d = samples.features.shape
        counts = None if samples.weights is None else samples.weights.double()[samples.targets].numpy()
        self.loss: AbstractScoreLoss = (
            BinaryLoss(samples.targets, counts)
            if samples.n_classes == 2
            else SoftmaxLoss(samples.targets, samples.n_classes, counts)
        )
        self._span: SampleSpan | None = None
        self._wide = wide(n, d, samples.n_classes)
        self._enter(samples.features)
        if self._wide:
            self._dear = span_worth(n, d)

    def _enter(self, features: Features) -> None:
        """Go on with the samples as they are given here, without a Hessian."""
        self._space = _Space(features, self.samples.dtype)
        n, d = features.shape
        self._penalised = np.ones(d + 1)
        self._penalised[-1] = 0
        self._dear, self._factor_dear = products_worth(n, d + 1, self.samples.n_classes - 1)
        self._hessian: Tensor | None = None
        self._hessian_trace = 1.0
        self._factor: Tensor | None = None
        self._factored = 0.0, 0.0
        self._owed = 0.0

    def _into_span(self, head: Float[np.ndarray, "m e"]) -> Float[np.ndarray, "m r"]:
        """Leave the features' axes for those of the samples' span, with a head."""
        span = self._decompose().span
        assert isinstance(span, SampleSpan)
        self._span = span
        self._enter(span.coordinates)
        return self._inward(head[None])[0]

    def _inward(self, heads: Float[np.ndarray, "k m e"]) -> Float[np.ndarray, "k m r"]:
        """Heads on the features in the coordinates that are used now."""
        if self._span is None:
            return heads
        weights = self._span.along(torch.from_numpy(heads[:, :, :-1]), self.samples.features)
        return np.concatenate([weights.numpy(), heads[:, :, -1:]], 2)

    def _outward(self, head: Float[Tensor, "m r"]) -> Float[Tensor, "m e"]:
        """A head in these coordinates on the features."""
        if self._span is None:
            return head
        return torch.cat([self._span.back(head[None, :, :-1], self.samples.features)[0], head[:, -1:]], 1)

    def fitting(self) -> Fit:
        """See `AbstractContinuation.fitting`; the Hessian is kept."""

        def fit(starts: Tensor, value: float, target: float, allowed: int) -> tuple[Tensor, int]:
            precision = self._space.precision
            points = self._at(self._inward(starts.double().numpy()), value, precision)
            start = min(points, key=lambda point: point.gap)
            head, spent = self._descend(start, value, target, allowed, precision)
            return self._outward(head), spent

        return fit

    def refine(
        self, heads: Float[Tensor, "q m e"], l2: Float[Tensor, " q"], target: float
    ) -> tuple[Float[Tensor, "q m e"], Int[Tensor, " q"]]:
        """See `AbstractContinuation.refine`."""
        found = []
        for head, value in zip(heads.double(), l2.tolist(), strict=True):
            start = self._at(self._inward(head[None].numpy()), value, torch.float64)[0]
            end, spent = self._descend(start, value, target, self.max_iterations, torch.float64)
            found.append((self._outward(end), spent))
        return torch.stack([head for head, _ in found]), torch.tensor([spent for _, spent in found])

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def _at(self, heads: Float[np.ndarray, "k m e"], l2: float, dtype: torch.dtype) -> list[_Point]:
        x, rows = self._space.rows(dtype), self.loss.expand(heads)
        k, r, e = rows.shape
        scores = (torch.from_numpy(rows.reshape(-1, e)).to(dtype) @ x.T).numpy().reshape(k, r, len(x))
        found = [self.loss(each) for each in scores]
        residuals = found[0].residual if k == 1 else np.concatenate([each.residual for each in found])
        products = (torch.from_numpy(residuals) @ x).numpy().reshape(k, r, e)
        return [self._point(*each, l2) for each in zip(heads, found, products, strict=True)]

    def _point(self, head: np.ndarray, found: ScoreDerivatives, products: np.ndarray, l2: float) -> _Point:
        n = len(self.samples.targets)
        penalty = l2 * self._penalised * head
        objective = found.loss / n + 0.5 * float((penalty * head).sum())
        gradient = self.loss.reduce(products) / n + penalty
        slope = gradient[:, -1]
        worth = slope @ np.linalg.solve(found.classes, slope) if len(head) > 1 else slope[0] ** 2 / found.classes[0, 0]
        gap = float((gradient[:, :-1] ** 2).sum() / (2 * l2) + worth)
        relative = gap / max(objective, 1e-300) if math.isfinite(gap + objective) else math.inf
        return _Point(head, objective, gradient, found.shares, found.classes, relative)

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def _descend(
        self, point: _Point, l2: float, target: float, allowed: int, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "m e"], int]:
        spent, idle, best = 1, 0, point
        while point.gap > target and spent <= allowed:
            if self._turns:
                head = self._into_span(point.head)
                dtype = torch.promote_types(dtype, self._space.precision)
                best = point = self._at(head[None], l2, dtype)[0]
                spent, idle = spent + 1, 0
            rounding = 50 * torch.finfo(dtype).eps
            step, spent = self._step(point, l2, target, spent, allowed, dtype)
            slope, length = float((point.gradient * step).sum()), 1.0
            better: _Point | None = None
            while better is None and slope < 0 and length > 1e-6 and spent <= allowed:
                there, spent = self._at((point.head + length * step)[None], l2, dtype)[0], spent + 1
                # Where the objective's digits run out, the gap tells what is better.
                falls = there.objective <= point.objective + 1e-4 * length * slope
                if falls or (there.objective <= point.objective * (1 + rounding) and there.gap < point.gap):
                    better = there
                length *= 0.5 if length > 0.2 else 0.2
            idle += 1
            if better is not None and (
                better.gap < 0.9 * best.gap or better.objective < best.objective * (1 - rounding)
            ):
                best, idle = better, 0
            if better is None or idle > _IDLE:
                if dtype == torch.float64 or spent > allowed:
                    break
                dtype, idle = torch.float64, 0
                best = better = self._at(best.head[None], l2, dtype)[0]
                spent += 1
            point = better
        return torch.from_numpy(min(point, best, key=lambda there: there.gap).head), spent

    def _step(
        self, point: _Point, l2: float, target: float, spent: int, allowed: int, dtype: torch.dtype
    ) -> tuple[Float[np.ndarray, "m e"], int]:
        """Newton's step, by preconditioned conjugate gradients."""
        residual = -point.gradient
        first = float(np.linalg.norm(residual))
        # Below this norm the residual does not stand in the certificate's way; far away, Newton's own error does.
        enough = max(0.3 * math.sqrt(2 * l2 * target * point.objective), min(0.3, math.sqrt(point.gap)) * first)
        step, solve, products = np.zeros_like(residual), self._solver(point, l2, fresh=False), 0
        z = solve(residual)
        direction, along, made = z, float((residual * z).sum()), False
        while along > 0 and spent <= allowed:
            product = self._product(point.shares, direction, l2, dtype)
            spent, products, self._owed = spent + 1, products + 1, self._owed + 1
            curved = float((direction * product).sum())
            if not curved > 0:
                break
            step = step + along / curved * direction
            residual = residual - along / curved * product
            if float(np.linalg.norm(residual)) <= enough:
                break
            if self._turns:
                break
            stale = self._owed > self._dear and not made
            if stale:
                self._make(point)
                made = True
            known = self._hessian is not None and self._factored != (l2, point.trace)
            if stale or (known and products > self._factor_dear):
                solve = self._solver(point, l2, fresh=True)
                z = solve(residual)
                direction, along = z, float((residual * z).sum())
                continue
            z = solve(residual)
            after = float((residual * z).sum())
            direction, along = z + after / along * direction, after
        return (step if step.any() else z), spent

    @property
    def _turns(self) -> bool:
        """Whether it is time for the samples' span."""
        return self._wide and self._span is None and self._owed > self._dear

    def _product(
        self, shares: Float[np.ndarray, "r n"], vector: Float[np.ndarray, "m e"], l2: float, dtype: torch.dtype
    ) -> Float[np.ndarray, "m e"]:
        """The Hessian's with a vector."""
        x = self._space.rows(dtype)
        along = (torch.from_numpy(self.loss.expand(vector)).to(dtype) @ x.T).numpy()
        along = self.loss.curved(shares, along)
        return self.loss.reduce((torch.from_numpy(along) @ x).numpy()) / len(x) + l2 * self._penalised * vector

    def _make(self, point: _Point) -> None:
        """The loss's Hessian, some samples at a time; no more is read than its blocks of classes below the diagonal."""
        x = self._space.rows(self._space.precision)
        (n, e), m = x.shape, len(point.head)
        found = x.new_zeros(m * e, m * e)
        rows, few = min(n, max(1, _BLOCK // max(e, m * m))), max(1, _BLOCK // ((m + 1) * m * m))
        room = np.empty((m, m, rows))
        for start in range(0, n, rows):
            some = x[start : start + rows]
            each = room[:, :, : len(some)]
            for at in range(0, len(some), few):
                here = slice(start + at, start + min(at + few, len(some)))
                each[:, :, at : at + few] = self.loss.second(point.shares, here) / n
            curvature = torch.from_numpy(each).to(x.dtype)
            for a in range(m):
                for b in range(a + 1):
                    weighted = some * curvature[a, b, :, None]
                    block = found[a * e : (a + 1) * e, b * e : (b + 1) * e]
                    for left in range(0, e, PANEL):
                        top, right = left if a == b else 0, left + PANEL
                        block[top:, left:right].addmm_(weighted[:, top:].T, some[:, left:right])
        self._hessian, self._hessian_trace, self._factor, self._owed = found, point.trace, None, 0.0

    def _solver(self, point: _Point, l2: float, *, fresh: bool) -> Callable[[np.ndarray], np.ndarray]:
        """The preconditioner: the factor that is there, or one of the Hessian that is there for this penalty."""
        known = self._hessian
        if known is None:
            biases = np.linalg.inv(point.classes)
            return lambda vector: np.concatenate([vector[:, :-1] / l2, biases @ vector[:, -1:]], 1)
        if self._factor is None or (fresh and self._factored != (l2, point.trace)):
            matrix = point.trace / self._hessian_trace * known
            diagonal = matrix.diagonal()
            diagonal += torch.from_numpy(l2 * self._penalised).to(matrix.dtype).repeat(len(point.head))
            floor, failed = torch.finfo(matrix.dtype).eps, 1
            while failed and floor < 1:
                diagonal += floor * float(diagonal.amax())
                self._factor, info = torch.linalg.cholesky_ex(matrix)
                failed, floor = int(info), floor * 100
            self._factored = l2, point.trace
        factor = self._factor
        assert factor is not None

        def solve(vector: np.ndarray) -> np.ndarray:
            half = torch.from_numpy(vector.reshape(-1, 1)).to(factor.dtype)
            half = torch.linalg.solve_triangular(factor, half, upper=False)
            return torch.linalg.solve_triangular(factor.mT, half, upper=True).double().numpy().reshape(vector.shape)

        return solve
