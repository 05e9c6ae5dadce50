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

_SCALE = (0.05, 3.0)
"""How far the metric may be scaled to agree with the newest pair."""


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
        # At the newest penalty: changes with its part, and their products with the steps.
        self._l2 = 0.0
        self._whole = like.new_zeros(memory, like.numel())
        self._cross = torch.zeros(memory, memory, dtype=torch.float64, device=like.device)

    def add(self, step: Float[Tensor, "m e"], change: Float[Tensor, "m e"]) -> None:
        """Remember one pair, unless rounding has eaten its curvature.

        Args:
            step: Difference of two points.
            change: Difference of the loss's gradients there, without the penalty's part.
        """
        step, change = step.flatten(), change.flatten()
        if not float(step @ change) > 1e-8 * math.sqrt(float(step @ step) * float(change @ change)):
            return
        slot = len(self.order) if len(self.order) < len(self.steps) else self.order.pop(0)
        self.order.append(slot)
        self.steps[slot], self.changes[slot] = step, change
        whole = self._whole[slot] = self._penalised(step, change, self._l2)
        self._cross[:, slot] = self.steps @ whole
        self._cross[slot] = self._whole @ step

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
        order, g = torch.tensor(self.order, device=gradient.device), gradient.flatten()
        upper = self._cross[order][:, order].triu()
        along = (self.steps @ g).double()
        first = torch.linalg.solve_triangular(upper, along[order, None], upper=True)[:, 0]
        newest = self._whole[self.order[-1]]
        q = g - self._combined(self._whole, first, order)
        z, turned = metric(torch.stack([q, newest]).view(2, *gradient.shape)).flatten(1)
        ratio = float(upper[-1, -1]) / max(float(newest @ turned), torch.finfo(torch.float64).tiny)
        z = z * min(max(ratio, _SCALE[0]), _SCALE[1])
        rest = upper.diagonal() * first - (self._whole @ z).double()[order]
        second = torch.linalg.solve_triangular(upper.T, rest[:, None], upper=False)[:, 0]
        return -(z + self._combined(self.steps, second, order)).view_as(gradient)

    def _move(self, l2: float) -> None:
        """Put another penalty's part into what is kept with it."""
        self._l2, self._whole = l2, self._penalised(self.steps, self.changes, l2)
        self._cross = (self.steps @ self._whole.T).double()

    def _penalised(self, steps: Float[Tensor, "*k s"], changes: Float[Tensor, "*k s"], l2: float) -> Tensor:
        whole = torch.add(changes, steps, alpha=l2)
        whole[..., self._unpenalised] = changes[..., self._unpenalised]
        return whole

    def _combined(self, vectors: Tensor, weights: Tensor, order: Tensor) -> Tensor:
        placed = vectors.new_zeros(len(vectors))
        placed[order] = weights.to(placed.dtype)
        return placed @ vectors


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
    curvature: Float[Tensor, "m m"]
    gap: float


def minimise(
    start: Point,
    evaluate: Callable[[Float[Tensor, "m e"], bool], Evaluation],
    measure: Callable[[float, Float[Tensor, "m e"], Float[Tensor, "m m"]], float],
    metric: Callable[[Float[Tensor, "m m"]], Metric],
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
    direction from the same point uses it; only from the second refusal on is the step halved as well.

    Args:
        start: Where to start.
        evaluate: The objective, with or without the class curvature.
        measure: The gap from objective, gradient and curvature; what `target` bounds.
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
    apply, stale, refused, best_at, iteration = metric(now.curvature), False, 0, 0, 0
    rounding = 50 * torch.finfo(now.gradient.dtype).eps
    while now.gap > target and iteration < max_iterations and iteration - best_at < patience and refused < 30:
        iteration += 1
        if stale:
            apply, stale = metric(now.curvature), False
        direction = pairs.direction(now.gradient, l2, apply)
        slope = float((now.gradient * direction).sum())
        if not slope < 0:
            direction = -apply(now.gradient[None])[0]
            slope = float((now.gradient * direction).sum())
        step = direction * 0.5 ** max(refused - 1, 0)
        new = evaluate(now.head + step, refresh(iteration))
        objective, gradient = float(new.objective[0]), new.gradient[0]
        if not (math.isfinite(objective) and bool(torch.isfinite(gradient).all())):
            refused += 2
            continue
        change = gradient - now.gradient
        change[:, :-1] -= l2 * step[:, :-1]
        pairs.add(step, change)
        end = float((gradient * direction).sum())
        if end > -_SLOPE * slope or objective > now.objective * (1 + rounding):
            refused += 1
            continue
        refused = 0
        if new.curvature is not None:
            stale = True
        curvature = now.curvature if new.curvature is None else new.curvature[0]
        gap = measure(objective, gradient, curvature)
        now = Point(now.head + step, objective, gradient, curvature, gap)
        if gap < 0.9 * best.gap:
            best_at = iteration
        if gap < best.gap:
            best = now
    return best, iteration
