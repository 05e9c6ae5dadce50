"""Limited-memory BFGS for many strictly convex problems side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerprobe.probing.solvers.softmax import Evaluation

Evaluate = Callable[[Float[Tensor, "q m e"], Int[Tensor, " q"], bool], Evaluation]
"""Evaluates heads of the problems with these numbers, with or without their curvature."""

Precondition = Callable[..., Float[Tensor, "q m e"]]
"""Applies an approximate inverse Hessian to vectors, given `curvature` and `which` problems they belong to."""

Gap = Callable[[Evaluation, Int[Tensor, " q"]], Float[Tensor, " q"]]
"""How far each problem is from its optimum."""

_SUFFICIENT = 0.9
_FAILURES = 12


@dataclass(frozen=True)
class Minimum:
    """Where each problem has got to.

    Attributes:
        heads: The points.
        iterations: Evaluations spent on each.
        exhausted: Which ones were still on their way when the evaluations ran out.
    """

    heads: Float[Tensor, "p m e"]
    iterations: Int[Tensor, " p"]
    exhausted: Bool[Tensor, " p"]


def minimise(
    start: Float[Tensor, "p m e"],
    evaluate: Evaluate,
    precondition: Precondition,
    gap: Gap,
    tolerance: float,
    max_iterations: int,
    memory: int,
    refresh: Callable[[int], bool],
) -> Minimum:
    """Minimise all problems together, one evaluation for an iteration, each leaving when its gap is small.

    Source: Nocedal (1980), with the initial inverse Hessian given by `precondition`. A step is taken unless the slope
    at its end exceeds 0.9 of the one at its start or the objective rises beyond rounding (for convex problems with
    this metric that is rare); a problem whose step is refused tries a shorter one in the next evaluation, while the
    others go on.

    Args:
        start: Where to start.
        evaluate: The objectives.
        precondition: Approximate inverse Hessian.
        gap: What `tolerance` bounds.
        tolerance: A problem leaves below it.
        max_iterations: Evaluations at most.
        memory: Pairs of steps and gradients that are kept.
        refresh: Whether the curvature is evaluated anew in an iteration.

    Returns:
        The points reached; the caller judges them.
    """
    heads, iterations = start.clone(), torch.zeros(len(start), dtype=torch.int64)
    active = torch.arange(len(start), device=start.device)
    exhausted = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    x = start.clone()
    now = evaluate(x, active, True)
    f, g, curvature = now.objective, now.gradient, now.curvature
    assert curvature is not None
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    rhos: list[Tensor] = []
    direction, length = torch.zeros_like(x), torch.ones(len(x), dtype=x.dtype, device=x.device)
    fresh = torch.ones(len(x), dtype=torch.bool, device=x.device)
    failures = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    current = gap(now, active)
    for iteration in range(1, max_iterations + 2):
        leave = (current <= tolerance) | (failures > _FAILURES) | ~torch.isfinite(f)
        if iteration > max_iterations:
            exhausted[active[~leave]] = True
            leave[:] = True
        if leave.any():
            heads[active[leave]] = x[leave]
            stay = ~leave
            active = active[stay]
            if not len(active):
                break
            x, f, g, curvature, current = x[stay], f[stay], g[stay], curvature[stay], current[stay]
            direction, length, fresh, failures = direction[stay], length[stay], fresh[stay], failures[stay]
            steps, changes, rhos = ([t[stay] for t in kept] for kept in (steps, changes, rhos))
        newton = -_two_loop(g, steps, changes, rhos, partial(precondition, curvature=curvature, which=active))
        direction = torch.where(fresh.view(-1, 1, 1), newton, direction)
        length = torch.where(fresh, torch.ones_like(length), length)
        slope = _dot(g, direction)
        trial = x + length.view(-1, 1, 1) * direction
        new = evaluate(trial, active, refresh(iteration))
        iterations[active.cpu()] += 1
        end = _dot(new.gradient, direction)
        taken = (end <= _SUFFICIENT * slope.abs()) & (new.objective <= f + 1e-6 * f.abs())
        step, change = trial - x, new.gradient - g
        _remember(steps, changes, rhos, step, change, taken, memory)
        secant = (-slope / (end - slope)).nan_to_num(0.1).clamp(0.1, 0.7)
        length = torch.where(taken, length, length * secant)
        failures = torch.where(taken, 0, failures + 1)
        fresh = taken | (failures == _FAILURES // 2)
        where = taken.view(-1, 1, 1)
        x, g, f = (
            torch.where(where, trial, x),
            torch.where(where, new.gradient, g),
            torch.where(taken, new.objective, f),
        )
        current = torch.where(taken, gap(new, active), current)
        if new.curvature is not None:
            curvature = torch.where(where, new.curvature, curvature)
    return Minimum(heads, iterations, exhausted)


def _two_loop(
    gradient: Float[Tensor, "q m e"],
    steps: list[Tensor],
    changes: list[Tensor],
    rhos: list[Tensor],
    metric: Callable[[Tensor], Tensor],
) -> Float[Tensor, "q m e"]:
    q, weights = gradient.clone(), []
    for step, change, rho in zip(reversed(steps), reversed(changes), reversed(rhos), strict=True):
        weight = rho * _dot(step, q)
        weights.append(weight)
        q -= weight.view(-1, 1, 1) * change
    q = metric(q)
    for step, change, rho, weight in zip(steps, changes, rhos, reversed(weights), strict=True):
        q += (weight - rho * _dot(change, q)).view(-1, 1, 1) * step
    return q


def _remember(
    steps: list[Tensor],
    changes: list[Tensor],
    rhos: list[Tensor],
    step: Tensor,
    change: Tensor,
    taken: Bool[Tensor, " q"],
    memory: int,
) -> None:
    """Keep a pair; for a problem whose step was refused, or has no curvature, it counts for nothing."""
    curvature = _dot(step, change)
    usable = taken & (curvature > 1e-10 * _dot(step, step).sqrt() * _dot(change, change).sqrt())
    where = usable.view(-1, 1, 1)
    steps.append(torch.where(where, step, torch.zeros_like(step)))
    changes.append(torch.where(where, change, torch.zeros_like(change)))
    rhos.append(torch.where(usable, 1 / curvature.clamp(min=torch.finfo(step.dtype).tiny), torch.zeros_like(curvature)))
    if len(steps) > memory:
        for kept in (steps, changes, rhos):
            del kept[0]


def _dot(left: Float[Tensor, "q m e"], right: Float[Tensor, "q m e"]) -> Float[Tensor, " q"]:
    return (left * right).sum((1, 2))
