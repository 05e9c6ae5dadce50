"""Limited-memory BFGS for one strictly convex problem, whose curvature pairs outlive a change of penalty."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.solvers.softmax import Evaluation

Metric = Callable[[Float[Tensor, "k m e"]], Float[Tensor, "k m e"]]
"""Applies an approximate inverse Hessian to k vectors."""

_SLOPE = 0.9

_FEW = 64
"""Classes up to which their curvature is decomposed on the CPU: a GPU takes as long for 10 as for 100."""

_SCALE = (0.05, 3.0)
"""How far the metric may be scaled to agree with the newest pair."""


def fetched(*parts: Tensor) -> tuple[Tensor, ...]:
    """Small results in the machine's own memory, float64.

    A device works on while the machine that commands it goes ahead, until something is read: so what is wanted of it is
    read together.

    Args:
        parts: Tensors of one device.

    Returns:
        The same, in the same shapes.
    """
    if parts[0].device.type == "cpu":
        return tuple(part.double() for part in parts)
    packed = torch.cat([part.flatten().double() for part in parts]).cpu()
    split = packed.split([part.numel() for part in parts])
    return tuple(found.view(part.shape) for found, part in zip(split, parts, strict=True))


class Pairs:
    r"""Steps and the changes of the loss's gradient along them: what is known of its Hessian.

    The penalty is left out of the changes, since its part is known: \(y = \Delta g + \mathrm{l2} \cdot s\). So pairs
    found at one L2 value serve at the next.

    Source of the method: Nocedal (1980). Its two loops are written here as two triangular systems. With \(S, Y\) the
    pairs as columns, oldest first, and \(R\) the upper triangle of \(S^\top Y\) with diagonal \(D\), the first loop is
    \(a = R^{-1} S^\top g,\ q = g - Y a\); after \(z = H_0 q\) the second is
    \(R^\top b = D a - Y^\top z,\ H g = z + S b\). That is four products with a (memory, size) matrix instead of a
    loop over pairs.

    Args:
        memory: Pairs kept; the oldest makes way.
        like: A vector of the problem, (m, e), the last column not penalised.
    """

    def __init__(self, memory: int, like: Float[Tensor, "m e"]) -> None:
        self.steps = like.new_zeros(memory, like.numel())
        self.changes = like.new_zeros(memory, like.numel())
        self.order: list[int] = []
        self._unpenalised = torch.arange(1, len(like) + 1, device=like.device) * like.shape[1] - 1
        # At the newest penalty: changes with its part, and their products with the steps, in the machine's own memory.
        self._l2 = 0.0
        self._whole = like.new_zeros(memory, like.numel())
        self._cross = torch.zeros(memory, memory, dtype=torch.float64)

    def add(self, step: Float[Tensor, "m e"], change: Float[Tensor, "m e"]) -> None:
        """Remember one pair, unless rounding has eaten its curvature.

        Args:
            step: Difference of two points.
            change: Difference of the loss's gradients there, without the penalty's part.
        """
        step, change = step.flatten(), change.flatten()
        whole = self._penalised(step, change, self._l2)
        products = torch.stack([step @ change, step @ step, change @ change, step @ whole])
        products, column, row = fetched(products, self.steps @ whole, self._whole @ step)
        along, long, curved, itself = products.tolist()
        if not along > 1e-8 * math.sqrt(long * curved):
            return
        slot = len(self.order) if len(self.order) < len(self.steps) else self.order.pop(0)
        self.order.append(slot)
        self.steps[slot], self.changes[slot], self._whole[slot] = step, change, whole
        self._cross[:, slot], self._cross[slot], self._cross[slot, slot] = column, row, itself

    def rescale(self, factor: float) -> None:
        """Multiply the known Hessian, as when the loss has become flatter everywhere.

        Args:
            factor: New curvature over old.
        """
        self.changes *= factor
        self._move(self._l2)

    def direction(self, gradient: Float[Tensor, "m e"], l2: float, metric: Metric) -> Float[Tensor, "m e"]:
        """The quasi-Newton step.

        Args:
            gradient: Gradient of the penalised objective.
            l2: The penalty.
            metric: The inverse Hessian before any pair; scaled here so that it agrees with the newest one.

        Returns:
            Minus the approximate inverse Hessian times the gradient.
        """
        if not self.order:
            return -metric(gradient[None])[0]
        if l2 != self._l2:
            self._move(l2)
        order, g = torch.tensor(self.order), gradient.flatten()
        upper = self._cross[order][:, order].triu()
        (along,) = fetched(self.steps @ g)
        first = torch.linalg.solve_triangular(upper, along[order, None], upper=True)[:, 0]
        newest = self._whole[self.order[-1]]
        q = g - self._combined(self._whole, first, order)
        z, turned = metric(torch.stack([q, newest]).view(2, *gradient.shape)).flatten(1)
        ratio = float(upper[-1, -1]) / (newest @ turned).double().clamp_min(torch.finfo(torch.float64).tiny)
        z = z * ratio.clamp(*_SCALE).to(z.dtype)
        (across,) = fetched(self._whole @ z)
        rest = upper.diagonal() * first - across[order]
        second = torch.linalg.solve_triangular(upper.T, rest[:, None], upper=False)[:, 0]
        return -(z + self._combined(self.steps, second, order)).view_as(gradient)

    def _move(self, l2: float) -> None:
        """Put another penalty's part into what is kept with it."""
        self._l2, self._whole = l2, self._penalised(self.steps, self.changes, l2)
        self._cross = (self.steps @ self._whole.T).double().cpu()

    def _penalised(self, steps: Float[Tensor, "*k s"], changes: Float[Tensor, "*k s"], l2: float) -> Tensor:
        whole = torch.add(changes, steps, alpha=l2)
        whole[..., self._unpenalised] = changes[..., self._unpenalised]
        return whole

    def _combined(self, vectors: Tensor, weights: Tensor, order: Tensor) -> Tensor:
        placed = weights.new_zeros(len(vectors))
        placed[order] = weights
        return placed.to(vectors.device, vectors.dtype, non_blocking=True) @ vectors


@dataclass(frozen=True)
class ClassAxes:
    """The class curvature A, decomposed.

    Attributes:
        values: Its eigenvalues in ascending order, float64.
        vectors: Its eigenvectors in columns.
    """

    values: Float[Tensor, " m"]
    vectors: Float[Tensor, "m m"]

    @classmethod
    def of(cls, curvature: Float[Tensor, "m m"]) -> ClassAxes:
        """Decompose a curvature, where it is; NaN where it is not finite."""
        if not curvature.isfinite().all():
            return cls(torch.full_like(curvature[0], torch.nan), torch.full_like(curvature, torch.nan))
        return cls(*torch.linalg.eigh(curvature))


@dataclass(frozen=True)
class Point:
    """Where a problem has got to.

    Attributes:
        head: The parameters.
        objective: The objective there.
        gradient: Its gradient.
        curvature: The newest class curvature.
        gap: The bound on the distance to the optimum, relative to the objective.
    """

    head: Float[Tensor, "m e"]
    objective: float
    gradient: Float[Tensor, "m e"]
    curvature: ClassAxes
    gap: float


@dataclass(frozen=True)
class Measured:
    """What is read of an evaluation.

    Attributes:
        objective: The objective.
        square: Squared norm of the weights' gradient.
        slope: The bias's gradient, float64.
        curvature: The class curvature; None where it was not asked for.
        others: What else was wanted.
    """

    objective: float
    square: float
    slope: Float[Tensor, " m"]
    curvature: ClassAxes | None
    others: tuple[float, ...]

    @classmethod
    def of(cls, evaluation: Evaluation, i: int, *others: Float[Tensor, ""]) -> Measured:
        """Read one head's evaluation.

        Args:
            evaluation: An evaluation of several heads.
            i: Which.
            others: Numbers to read with it.
        """
        gradient = evaluation.gradient[i]
        numbers = torch.stack(
            [evaluation.objective[i], gradient[:, :-1].double().square().sum(), *(other.double() for other in others)]
        )
        if evaluation.curvature is None:
            numbers, slope = fetched(numbers, gradient[:, -1])
            curvature = None
        elif len(gradient) > _FEW:
            numbers, slope = fetched(numbers, gradient[:, -1])
            curvature = ClassAxes.of(evaluation.curvature[i])
        else:
            numbers, slope, few = fetched(numbers, gradient[:, -1], evaluation.curvature[i])
            curvature = ClassAxes.of(few)
        objective, square, *rest = numbers.tolist()
        return cls(objective, square, slope, curvature, tuple(rest))

    @property
    def finite(self) -> bool:
        """Whether objective and gradient are."""
        return math.isfinite(self.objective) and math.isfinite(self.square) and bool(self.slope.isfinite().all())


def minimise(
    start: Point,
    evaluate: Callable[[Float[Tensor, "m e"], bool], Evaluation],
    measure: Callable[[Measured, ClassAxes], float],
    metric: Callable[[ClassAxes], Metric],
    pairs: Pairs,
    l2: float,
    target: float,
    max_iterations: int,
    patience: int,
    refresh: Callable[[int], bool],
) -> tuple[Point, int]:
    """Minimise one problem, one evaluation for an iteration.

    The unit step is taken unless the slope at its end exceeds 0.9 of the one at its start or the objective rises
    beyond rounding. A refused step is not searched along: its pair shows the curvature that was missing, so the next
    direction from the same point uses it; only from the second refusal on is the step halved as well. Where the step
    led uphill, which rounding can bring about, the metric's own is taken next.

    Args:
        start: Where to start.
        evaluate: The objective, with or without the class curvature.
        measure: The gap from what is read of an evaluation and the class curvature; what `target` bounds.
        metric: The approximate inverse Hessian for a class curvature.
        pairs: What is known of the Hessian; added to.
        l2: The penalty.
        target: Stop at this gap.
        max_iterations: Evaluations at most.
        patience: Stop after as many evaluations without a gap a tenth smaller: rounding is in the way.
        refresh: Whether an iteration evaluates the class curvature.

    Returns:
        The point of the smallest gap, and the evaluations spent.
    """
    best = now = start
    apply, stale, uphill, refused, best_at, iteration = metric(now.curvature), False, False, 0, 0, 0
    rounding = 50 * torch.finfo(now.gradient.dtype).eps
    while now.gap > target and iteration < max_iterations and iteration - best_at < patience and refused < 30:
        iteration += 1
        if stale:
            apply, stale = metric(now.curvature), False
        direction = -apply(now.gradient[None])[0] if uphill else pairs.direction(now.gradient, l2, apply)
        step = direction * 0.5 ** max(refused - 1, 0)
        new = evaluate(now.head + step, refresh(iteration))
        gradient = new.gradient[0]
        found = Measured.of(new, 0, (now.gradient * direction).sum(), (gradient * direction).sum())
        slope, end = found.others
        uphill = not uphill and not slope < 0
        if not found.finite:
            refused += 2
            continue
        change = gradient - now.gradient
        change[:, :-1] -= l2 * step[:, :-1]
        pairs.add(step, change)
        if uphill:
            continue
        if end > -_SLOPE * slope or found.objective > now.objective * (1 + rounding):
            refused += 1
            continue
        refused = 0
        if found.curvature is not None:
            stale = True
        curvature = now.curvature if found.curvature is None else found.curvature
        gap = measure(found, curvature)
        now = Point(now.head + step, found.objective, gradient, curvature, gap)
        if gap < 0.9 * best.gap:
            best_at = iteration
        if gap < best.gap:
            best = now
    return best, iteration
