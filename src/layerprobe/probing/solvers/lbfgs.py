"""L-BFGS for one strictly convex problem, whose curvature pairs outlive a change of penalty."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.solvers.softmax_objective import Evaluation

Metric = Callable[[Float[Tensor, "k m e"]], Float[Tensor, "k m e"]]
"""Applies an approximate inverse Hessian to k vectors."""

_SLOPE = 0.9

_FEW = 64
"""Classes up to which their curvature is decomposed on the CPU: a GPU takes as long for 10 as for 100."""

_CHUNK = 16
"""Places for pairs that come into use together on the CPU, which has not to multiply those that are empty."""

_SCALE = (0.05, 3.0)
"""How far the metric may be scaled to agree with the newest pair."""


@dataclass(frozen=True)
class Pair:
    """A step and the change of the loss's gradient along it, with its products with the pairs that are kept.

    Attributes:
        step: Difference of two points.
        change: Difference of the loss's gradients there, without the penalty's part.
        whole: The same with it.
        column: Every kept step's product with `whole`.
        products: The step's with `change`, itself, `whole` and the gradients before and after it, and ‖change‖².
    """

    step: Float[Tensor, " s"]
    change: Float[Tensor, " s"]
    whole: Float[Tensor, " s"]
    column: Float[Tensor, " used"]
    products: Float[Tensor, " 6"]

    @staticmethod
    def curved(products: list[float]) -> bool:
        """Whether rounding has left it its curvature.

        Args:
            products: As in `products`.
        """
        along, long, _, _, _, change = products
        return along > 1e-8 * math.sqrt(long * change)


class Pairs:
    r"""Steps and the changes of the loss's gradient along them: what is known of its Hessian.

    The penalty is left out of the changes, since its part is known: \(y = \Delta g + \mathrm{l2} \cdot s\). So pairs
    found at one L2 value serve at the next.

    Source of the method: Nocedal (1980). Its two loops are written here as two triangular systems. With \(S, Y\) the
    pairs as columns, oldest first, and \(R\) the upper triangle of \(S^\top Y\) with diagonal \(D\), the first loop is
    \(a = R^{-1} S^\top g,\ q = g - Y a\); after \(z = H_0 q\) the second is
    \(R^\top b = D a - Y^\top z,\ H g = z + S b\). That is four products with a (memory, size) matrix instead of a
    loop over pairs.

    \(R^{-1}\) is kept. A new pair adds the column \((-R^{-1} r / \rho, 1/\rho)\) for \(r = S^\top y, \rho = s^\top y\);
    the oldest pair's row and column may be left out, since what is below and right of them is the inverse of what is
    left. So neither needs the pairs' order, and a place without a pair holds zeros, which change nothing.

    Args:
        memory: Pairs kept; the oldest makes way.
        like: A vector of the problem, (m, e), the last column not penalised.
    """

    def __init__(self, memory: int, like: Float[Tensor, "m e"]) -> None:
        self.steps = like.new_zeros(memory, like.numel())
        self.changes = like.new_zeros(memory, like.numel())
        self.newest = -1
        # A graph's sizes stay what they are; elsewhere, as many as hold a pair.
        self.used = memory if like.is_cuda else min(memory, _CHUNK)
        self._places = torch.arange(memory, device=like.device)
        self._row = like.shape[1]
        # At the newest penalty: changes with its part, the inverse and the diagonal of their products with the steps.
        self._whole = like.new_zeros(memory, like.numel())
        self._inverse = torch.zeros(memory, memory, dtype=torch.float64, device=like.device)
        self._diagonal = torch.zeros(memory, dtype=torch.float64, device=like.device)

    def pair(
        self,
        step: Float[Tensor, "m e"],
        start: Float[Tensor, "m e"],
        end: Float[Tensor, "m e"],
        l2: Float[Tensor, " 1"],
    ) -> Pair:
        """Measure a pair.

        Args:
            step: Difference of two points.
            start: The penalised objective's gradient at the first.
            end: The same at the second.
            l2: The penalty, that of the last `move`.
        """
        step, start, end = step.flatten(), start.flatten(), end.flatten()
        whole = end - start
        change = whole - self._penalty(step, l2)
        products = torch.cat([torch.stack([change, step, whole, start, end]) @ step, (change @ change)[None]])
        return Pair(step, change, whole, self.steps[: self.used] @ whole, products)

    def add(self, pair: Pair) -> None:
        """Remember one pair.

        Args:
            pair: A pair that is `curved`, measured after the last one was added.
        """
        slot = self.newest = (self.newest + 1) % len(self.steps)
        self.steps[slot], self.changes[slot], self._whole[slot] = pair.step, pair.change, pair.whole
        inverse, along = self._inverse[: self.used, : self.used], pair.products[2].double()
        inverse[slot], inverse[:, slot] = 0.0, 0.0
        inverse[:, slot] = inverse @ (pair.column.double() / -along)
        inverse[slot, slot], self._diagonal[slot] = 1 / along, along
        if slot + 1 >= self.used:
            self.used = min(len(self.steps), self.used + _CHUNK)

    def move(self, l2: Float[Tensor, " 1"], factor: float = 1.0) -> None:
        """Put another penalty's part into what is kept with it.

        Args:
            l2: The penalty.
            factor: New curvature of the loss over old, as when it has become flatter everywhere.
        """
        steps, changes, whole = (part[: self.used] for part in (self.steps, self.changes, self._whole))
        changes *= factor
        whole.copy_(changes + self._penalty(steps, l2))
        order = (self._places[: self.used] + self.newest + 1) % self.used
        upper = (steps[order] @ whole[order].T).double()
        diagonal = upper.diagonal()
        self._diagonal[order] = diagonal
        filled = diagonal != 0
        diagonal += ~filled
        inverse = torch.linalg.solve_triangular(upper, torch.diag(filled.double()), upper=True)
        self._inverse[order[:, None], order] = inverse

    def direction(
        self, gradient: Float[Tensor, "m e"], newest: Int[Tensor, ""], metric: Metric
    ) -> Float[Tensor, "m e"]:
        """The quasi-Newton step at the penalty of the last `move`.

        Args:
            gradient: Gradient of the penalised objective.
            newest: The place of the newest pair, `self.newest`.
            metric: The inverse Hessian before any pair; scaled here so that it agrees with the newest one.

        Returns:
            Minus the approximate inverse Hessian times the gradient.
        """
        k = self.used
        steps, whole, inverse, diagonal = self.steps[:k], self._whole[:k], self._inverse[:k, :k], self._diagonal[:k]
        g = gradient.flatten()
        first = inverse @ (steps @ g).double()
        # By index, since a graph is recorded once for all places.
        last, along = whole.index_select(0, newest.view(1) % k)[0], diagonal.index_select(0, newest.view(1) % k)
        q = g - first.to(g.dtype) @ whole
        z, turned = metric(torch.stack([q, last]).view(2, *gradient.shape)).flatten(1)
        ratio = along / (last @ turned).double().clamp_min(torch.finfo(torch.float64).tiny)
        z = z * torch.where(along > 0, ratio.clamp(*_SCALE), 1.0).to(z.dtype)
        second = (diagonal * first - (whole @ z).double()) @ inverse
        return -(z + second.to(z.dtype) @ steps).view_as(gradient)

    def _penalty(self, steps: Float[Tensor, "*k s"], l2: Float[Tensor, " 1"]) -> Tensor:
        part = steps * l2.to(steps.dtype)
        part.unflatten(-1, (-1, self._row))[..., -1].zero_()
        return part


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
class Readout:
    """Numbers that are read of an evaluation.

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
    others: list[float]

    @staticmethod
    def packed(evaluation: Evaluation, i: int, *others: Tensor) -> Float[Tensor, " r"]:
        """Put what is read of one head's evaluation into one vector.

        A GPU works on while the machine that commands it goes ahead, until something is read: so all is read together.

        Args:
            evaluation: An evaluation of several heads.
            i: Which.
            others: Numbers to read with it.
        """
        gradient = evaluation.gradient[i]
        parts = [gradient[:, -1], evaluation.objective[i], gradient[:, :-1].double().square().sum(), *others]
        if evaluation.curvature is not None and len(gradient) <= _FEW:
            parts.append(evaluation.curvature[i])
        return torch.cat([part.flatten().double() for part in parts])

    @classmethod
    def read(cls, packed: Float[Tensor, " r"], m: int, others: int, curvature: Tensor | None) -> Readout:
        """Read it.

        Args:
            packed: What `packed` made.
            m: Classes but one.
            others: How many numbers were read with it.
            curvature: The class curvature of the evaluation.
        """
        packed = packed.cpu()
        objective, square, *rest = packed[m : m + 2 + others].tolist()
        if curvature is not None and m <= _FEW:
            curvature = packed[m + 2 + others :].view(m, m)
        axes = None if curvature is None else ClassAxes.of(curvature)
        return cls(objective, square, packed[:m], axes, rest)

    @classmethod
    def of(cls, evaluation: Evaluation, i: int) -> Readout:
        """Pack and read."""
        curvature = None if evaluation.curvature is None else evaluation.curvature[i]
        return cls.read(cls.packed(evaluation, i), evaluation.gradient.shape[1], 0, curvature)

    @property
    def finite(self) -> bool:
        """Whether objective and gradient are."""
        return math.isfinite(self.objective) and math.isfinite(self.square) and bool(self.slope.isfinite().all())


@dataclass(frozen=True)
class Point:
    """State of a problem between two iterations.

    Attributes:
        head: The parameters.
        objective: The objective there.
        gradient: Its gradient.
        curvature: The newest class curvature.
        gap: The bound on the distance to the optimum, relative to the objective.
        gain: What the step that led here was to bring and has brought, whichever is more, relative to the objective.
    """

    head: Float[Tensor, "m e"]
    objective: float
    gradient: Float[Tensor, "m e"]
    curvature: ClassAxes
    gap: float
    gain: float = math.inf


def relative_gain(before: float, after: float, slope: float) -> float:
    """What a Newton-like step was to bring by its model and has brought, whichever is more, over the objective after.

    Args:
        before: The objective before.
        after: The objective after.
        slope: The gradient's product with the whole step, also where a part of it was taken.
    """
    return max(-0.5 * slope, before - after) / max(after, torch.finfo(torch.float64).tiny)


@dataclass(frozen=True)
class Trial:
    """A step that may be taken.

    Attributes:
        head: Where it ends.
        gradient: The gradient there.
        pair: The step and what the gradient changes along it.
        packed: What is read of it: the evaluation, and the pair's products.
        curvature: The class curvature there; None where it was not asked for.
    """

    head: Float[Tensor, "m e"]
    gradient: Float[Tensor, "m e"]
    pair: Pair
    packed: Float[Tensor, " r"]
    curvature: Float[Tensor, "m m"] | None


Try = Callable[..., Trial]
"""Tries a step from (head, gradient, numbers, eigenvalues and eigenvectors of the class curvature); the numbers are the
penalty, the share of the direction to go, and the place of the newest pair."""


def tried(
    evaluate: Callable[[Float[Tensor, "1 m e"], Float[Tensor, " 1"], bool], Evaluation],
    metric: Callable[[Float[Tensor, " m"], Float[Tensor, "m m"], Float[Tensor, " 1"]], Metric],
    pairs: Pairs,
) -> Try:
    """What one iteration computes, with no number read.

    Args:
        evaluate: The objective of heads, each at its own L2 value, with or without the class curvature.
        metric: The approximate inverse Hessian for a class curvature and an L2 value.
        pairs: What is known of the Hessian.

    Returns:
        A function of tensors, and of whether the pairs are left out of the direction and the curvature is wanted.
    """

    def attempt(
        head: Tensor, gradient: Tensor, numbers: Tensor, a: Tensor, turn: Tensor, *, plain: bool, curvature: bool
    ) -> Trial:
        numbers, a, turn = (part.to(head.device, non_blocking=True) for part in (numbers, a, turn))
        l2, share, newest = numbers[:1], numbers[1], numbers[2].long()
        apply = metric(a, turn, l2)
        direction = -apply(gradient[None])[0] if plain else pairs.direction(gradient, newest, apply)
        step = direction * share.to(direction.dtype)
        trial = head + step
        new = evaluate(trial[None], l2, curvature)
        end = new.gradient[0]
        pair = pairs.pair(step, gradient, end, l2)
        packed = Readout.packed(new, 0, pair.products)
        return Trial(trial, end, pair, packed, None if new.curvature is None else new.curvature[0])

    return attempt


def minimise(
    start: Point,
    attempt: Try,
    measure: Callable[[Readout, ClassAxes], float],
    pairs: Pairs,
    l2: float,
    target: float,
    max_iterations: int,
    patience: int,
    refresh: Callable[[int], bool],
    least_gain: float = 0.0,
    idle: int | None = None,
) -> tuple[Point, int]:
    """Minimise one problem, one evaluation for an iteration.

    The unit step is taken unless the slope at its end exceeds 0.9 of the one at its start or the objective rises
    beyond rounding. A refused step is not searched along: its pair shows the curvature that was missing, so the next
    direction from the same point uses it; only from the second refusal on is the step halved as well. Where the step
    led uphill, which rounding can bring about, the metric's own is taken next.

    Args:
        start: Where to start.
        attempt: Tries a step; what `tried` made of the problem and of `pairs`.
        measure: The gap from what is read of an evaluation and the class curvature; what `target` bounds.
        pairs: What is known of the Hessian, moved to the penalty; added to.
        l2: The penalty.
        target: Stop at this gap.
        max_iterations: Evaluations at most.
        patience: Stop after as many evaluations without a gap a tenth smaller: rounding is in the way.
        refresh: Whether an iteration evaluates the class curvature.
        least_gain: Stop at a step whose gain, see `Point`, is less.
        idle: Stop after as many in which the objective has not fallen by more than rounding either.

    Returns:
        The point of the smallest gap, or that of the least gain, and the evaluations spent.
    """
    best = now = start
    uphill, refused, best_at, iteration = False, 0, 0, 0
    lowest, fallen_at = start.objective, 0
    rounding = 50 * torch.finfo(now.gradient.dtype).eps
    while now.gap > target and iteration < max_iterations and iteration - best_at < patience and refused < 30:
        if idle is not None and iteration - max(best_at, fallen_at) >= idle:
            break
        iteration += 1
        share = 0.5 ** max(refused - 1, 0)
        numbers = torch.tensor([l2, share, pairs.newest], dtype=torch.float64)
        given = now.head, now.gradient, numbers, now.curvature.values, now.curvature.vectors
        trial = attempt(*given, plain=uphill, curvature=refresh(iteration))
        found = Readout.read(trial.packed, len(now.head), 6, trial.curvature)
        slope, end = found.others[3:5]
        uphill = not uphill and not slope < 0
        if not found.finite:
            refused += 2
            continue
        if Pair.curved(found.others):
            pairs.add(trial.pair)
        if uphill:
            continue
        if end > -_SLOPE * slope or found.objective > now.objective * (1 + rounding):
            refused += 1
            continue
        refused = 0
        curvature = now.curvature if found.curvature is None else found.curvature
        gap = measure(found, curvature)
        gain = relative_gain(now.objective, found.objective, slope / share)
        now = Point(trial.head.clone(), found.objective, trial.gradient.clone(), curvature, gap, gain)
        if gain < least_gain:
            return now, iteration
        if now.objective < lowest * (1 - rounding):
            lowest, fallen_at = now.objective, iteration
        if gap < 0.9 * best.gap:
            best_at = iteration
        if gap < best.gap:
            best = now
    return best, iteration
