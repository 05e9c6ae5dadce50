"""Limited-memory BFGS for one strictly convex problem, whose curvature pairs outlive a change of penalty."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
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
        self.steps = like.new_zeros(memory, *like.shape)
        self.changes = like.new_zeros(memory, *like.shape)
        self.cross = torch.zeros(memory, memory, dtype=torch.float64, device=like.device)
        self.inner = torch.zeros(memory, memory, dtype=torch.float64, device=like.device)
        self.order: list[int] = []

    def add(self, step: Float[Tensor, "m e"], change: Float[Tensor, "m e"]) -> None:
        """Remember one pair, unless rounding has eaten its curvature.

        Args:
            step: Difference of two points.
            change: Difference of the loss's gradients there, without the penalty's part.
        """
        curvature = float((step * change).sum())
        if not curvature > 1e-8 * float(step.norm() * change.norm()):
            return
        slot = len(self.order) if len(self.order) < len(self.steps) else self.order.pop(0)
        self.order.append(slot)
        self.steps[slot], self.changes[slot] = step, change
        flat_steps, flat_changes = self.steps.flatten(1), self.changes.flatten(1)
        self.cross[:, slot] = (flat_steps @ flat_changes[slot]).double()
        self.cross[slot] = (flat_changes @ flat_steps[slot]).double()
        penalised = self.steps[:, :, :-1].flatten(1)
        self.inner[slot] = self.inner[:, slot] = (penalised @ penalised[slot]).double()

    def rescale(self, factor: float) -> None:
        """Multiply the known Hessian, as when the loss has become flatter everywhere.

        Args:
            factor: New curvature over old.
        """
        self.changes *= factor
        self.cross *= factor

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
        order = torch.tensor(self.order, device=gradient.device)
        upper = (self.cross + l2 * self.inner)[order][:, order].triu()
        first = torch.linalg.solve_triangular(upper, self._along(self.steps, gradient)[order, None], upper=True)
        q = gradient - self._combine(self.changes, first, order)
        q[:, :-1] -= l2 * self._combine(self.steps, first, order)[:, :-1]
        newest = self.changes[self.order[-1]].clone()
        newest[:, :-1] += l2 * self.steps[self.order[-1], :, :-1]
        z, turned = metric(torch.stack([q, newest]))
        ratio = float(upper[-1, -1]) / max(float((newest * turned).sum()), torch.finfo(torch.float64).tiny)
        z *= min(max(ratio, _SCALE[0]), _SCALE[1])
        seen = self._along(self.changes, z)[order]
        held = z.clone()
        held[:, -1] = 0
        seen += l2 * self._along(self.steps, held)[order]
        rest = (upper.diagonal() * first[:, 0] - seen)[:, None]
        second = torch.linalg.solve_triangular(upper.T, rest, upper=False)
        return -(z + self._combine(self.steps, second, order))

    def _along(self, vectors: Float[Tensor, "k m e"], vector: Float[Tensor, "m e"]) -> Float[Tensor, " k"]:
        return (vectors.flatten(1) @ vector.flatten()).double()

    def _combine(
        self, vectors: Float[Tensor, "k m e"], weights: Float[Tensor, "j 1"], order: Int[Tensor, " j"]
    ) -> Float[Tensor, "m e"]:
        placed = vectors.new_zeros(len(vectors))
        placed[order] = weights[:, 0].to(placed.dtype)
        return (placed @ vectors.flatten(1)).view(vectors.shape[1:])


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
