"""L2 path of multinomial logistic regression: the optimum at each value, from those before."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.solvers.binary_objective import BinaryObjective
from layerprobe.probing.solvers.change_of_basis import ChangedBasis
from layerprobe.probing.solvers.cuda_graphs import Graphed
from layerprobe.probing.solvers.lbfgs import (
    ClassAxes,
    Metric,
    Pair,
    Pairs,
    Point,
    Readout,
    Try,
    minimise,
    relative_gain,
    tried,
)
from layerprobe.probing.solvers.sampled_hessian import (
    SampledHessian,
    doubts,
    sample_sizes,
    solved,
    square_lengths,
    worth_sampling,
)
from layerprobe.probing.solvers.softmax_objective import Evaluation, SoftmaxObjective, basis

_PATIENCE = 150
"""Evaluations in float32 without a gap a tenth smaller, after which float64 goes on: each takes five times as long."""

_IDLE = 30
"""The same where the objective stays as well: single precision has then given what it can."""

_RUNG = 30.0
"""Largest ratio of neighbouring L2 values: wider steps are made through values between, solved roughly."""

_LOWEST = 1e-12
"""An L2 value that standardised features in float32 cannot tell from none: beneath it nothing lies between."""

ROUGH = 0.03
"""The gap to which such a value is solved, and every value of a path that is walked to find the best."""

_GAIN = 1e-3
"""A rough value is left, too, at a step that has brought less than this share of the objective and was to: under a weak
penalty the gap, ‖g‖²/(2·l2), may be a thousand times what is left to gain."""

_MANY = 64
"""Classes beyond which their curvature, which costs c²·n and its decomposition c³, is that of some samples where a
value begins, and seldom evaluated later; guesses are compared on the same samples."""

_TENTH, _ENOUGH = 10, 20
"""Of how many samples one is taken for that, and samples for each class at least."""

_SLOW = 0.3
"""What a Newton step with a Hessian of some samples leaves of the gap at most, else more of them are taken."""

_FORCE = 0.1
"""What such a step leaves of the gradient at least: the Hessian is not known any better."""

_SHORTEST = 0.25
"""Share of such a step that is tried at least where it leads upwards: the sample has missed some of the curvature."""

_TURN = 10
"""Evaluations without a gap a tenth smaller after which L-BFGS leaves the turn to Newton's steps again."""

_FAILURES = 2
"""Values in a row at which no Newton's step leads downwards, after which L-BFGS has those that follow."""

PAIR_BYTES = 1 << 29
"""What curvature pairs may take."""

_DIRECTION_BYTES = 1 << 26
"""What the directions of one linear system, which become pairs when it is solved, may take with their products: less
than the second copy of its sample, which is gone by then."""

Objective: TypeAlias = BinaryObjective | SoftmaxObjective | ChangedBasis


@dataclass(frozen=True)
class Samples:
    """What is fitted.

    Attributes:
        features: The samples, or their coordinates where d > n.
        targets: Class indices; every class has a sample.
        n_classes: Number of classes, at least 2.
        dtype: Precision of the first fit.
        axes: What heads are given in, orthonormal columns; None for the features' own axes.
        weights: What a sample of each class counts, of mean 1 over the samples; None where all count the same.
    """

    features: Features
    targets: Int[Tensor, " n"]
    n_classes: int
    dtype: torch.dtype
    axes: Float[Tensor, "d d"] | None = None
    weights: Float[Tensor, " c"] | None = None

    @cached_property
    def squares(self) -> Float[Tensor, " n"]:
        """Squared length of each sample."""
        return square_lengths(self.features, self.dtype)

    def objective(self, dtype: torch.dtype) -> Objective:
        """What is minimised.

        Args:
            dtype: Precision of its matrix products.

        Returns:
            The objective of these samples.
        """
        features = self.features
        # Coordinates are float64; converted once, not at every evaluation.
        if isinstance(features, Tensor) and features.dtype == torch.float64:
            features = features.to(dtype)
        objective: Objective = (
            BinaryObjective(features, self.targets, dtype, self.weights)
            if self.n_classes == 2
            else SoftmaxObjective(features, self.targets, self.n_classes, dtype, self.weights)
        )
        if self.axes is not None:
            objective = ChangedBasis(objective, self.axes.to(dtype))
        return objective


Fit: TypeAlias = Callable[[Float[Tensor, "k m e"], float, float, int], tuple[Float[Tensor, "m e"], int]]
"""Fits one value from k guesses to a gap, in as many evaluations at most as is said; hands back the head, and what it
has spent."""


class AbstractContinuation(ABC):
    """Follows the optimum from strong to weak penalties: the order of the values, and where each starts.

    On separable data the optimum moves along log l2, elsewhere it runs into the unpenalised one along l2. So each value
    starts from the three before, extrapolated in either. Rough heads are extrapolated from two, since a third one's
    error would count more than what it says of the curve.

    Attributes:
        samples: What is fitted.
        target: The gap to reach.
        max_iterations: Evaluations of each value at most.
    """

    samples: Samples
    target: float
    max_iterations: int

    @abstractmethod
    def fitting(self) -> Fit:
        """What fits one value after the other, and remembers what it has learnt of the curvature."""

    @abstractmethod
    def refine(
        self, heads: Float[Tensor, "q m e"], l2: Float[Tensor, " q"], target: float
    ) -> tuple[Float[Tensor, "q m e"], Int[Tensor, " q"]]:
        """Go on in float64 from heads that have not been brought further.

        Args:
            heads: Where to go on from.
            l2: Their L2 values.
            target: The gap to reach.

        Returns:
            Heads in float64, and the evaluations spent on each.
        """

    @cached_property
    def first_slope(self) -> float:
        """The gradient's norm at zero weights and the best bias, the scale where there is no penalty."""
        zero = torch.zeros(1, dtype=torch.float64, device=self.samples.features.device)
        return float(self.samples.objective(torch.float64)(self.zero[None].double(), zero, False).gradient.norm())

    @property
    def zero(self) -> Float[Tensor, "m e"]:
        """Zero weights, and the bias that is best for them: the logarithms of the classes' shares."""
        s = self.samples
        share = torch.bincount(s.targets, minlength=s.n_classes).double() / len(s.targets)
        share = share if s.weights is None else share * s.weights
        head = torch.zeros(s.n_classes - 1, s.features.shape[1] + 1, dtype=s.dtype, device=s.features.device)
        head[:, -1] = basis(s.n_classes, torch.float64, head.device).T @ share.log()
        return head

    def follow(
        self,
        l2: Float[Tensor, " p"],
        stop: Callable[[Float[Tensor, "m e"]], bool] | None = None,
        rough: bool = False,
    ) -> tuple[Float[Tensor, "p m e"], Int[Tensor, " p"]]:
        """Fit every value, from the largest on.

        Args:
            l2: L2 values, in any order and with repetitions.
            stop: Shown each head; true where the smaller values are not wanted.
            rough: Whether to fit every value to a rough gap only.

        Returns:
            Heads in float64 (weights and, last, bias, in the coordinates of `basis`), and the evaluations spent on
            each: none on what was not wanted, whose head is NaN.
        """
        fit, zero = self.fitting(), self.zero
        known: list[tuple[float, Tensor]] = []
        heads: dict[float, tuple[Tensor, int]] = {}
        for value, between in _rungs(sorted(set(l2.tolist()), reverse=True)):
            starts = _extrapolate(known[-2:] if rough else known[-3:], value) or [zero]
            target = max(ROUGH, self.target) if rough or between else self.target
            head, spent = fit(torch.stack(starts), value, target, self.max_iterations)
            heads[value] = head.double(), spent
            known.append((value, head))
            if not between and stop is not None and stop(head):
                break
        nothing = torch.full_like(zero, torch.nan, dtype=torch.float64), 0
        ends = [heads.get(value, nothing) for value in l2.tolist()]
        return torch.stack([head for head, _ in ends]), torch.tensor([count for _, count in ends])

    def improve(
        self,
        heads: Float[Tensor, "p m e"],
        l2: Float[Tensor, " p"],
        spent: Int[Tensor, " p"],
        which: Sequence[int],
        exact: Sequence[int],
    ) -> tuple[Float[Tensor, "q m e"], Int[Tensor, " q"]]:
        """Go on from rough heads to the target, in the precision of the first fit.

        Args:
            heads: A head for each value.
            l2: L2 values.
            spent: The evaluations spent on each so far.
            which: Places of the heads to improve.
            exact: Places of heads that have been brought to their target already.

        Returns:
            The heads of these places, and the evaluations spent on each from here on.
        """
        fit, heads, values = self.fitting(), heads.to(torch.float64, copy=True), l2.tolist()
        known, more = {values[i]: i for i in exact}, torch.zeros_like(spent)
        for k in sorted(which, key=lambda k: -values[k]):
            near = sorted((v for v in known if v > 0), key=lambda v: abs(_place(v) - _place(values[k])))[:3]
            guesses = [heads[known[values[k]]]] if values[k] in known else []
            if len(near) > 1 and not guesses:
                guesses = _extrapolate([(value, heads[known[value]]) for value in near], values[k])
            allowed = max(self.max_iterations - int(spent[k]), 0)
            heads[k], more[k] = fit(torch.stack([heads[k], *guesses]), values[k], self.target, allowed)
            known[values[k]] = k
        return heads[list(which)], more[list(which)]


@dataclass
class _Draws:
    """What the rows of the next sampled Hessian are drawn by.

    Attributes:
        size: How many.
        most: How many at most.
        by: The doubts at the first head that was stepped from; None where that is still to come.
        generator: What draws.
    """

    size: int
    most: int
    by: Float[Tensor, " n"] | None = None
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Continuation(AbstractContinuation):
    r"""Follows the optimum by L-BFGS.

    **Start.** All guesses are evaluated in one pass over the samples, the one with the smaller gap is taken, and their
    difference is a curvature pair.

    **Steps.** L-BFGS with the inverse Hessian (A ⊗ Λ + l2)⁻¹ before any pair: the Hessian of the loss is the mean of
    (diag(q_i) - q_i q_iᵀ) ⊗ x_i x_iᵀ, and replacing the mean of products by the product of means gives A ⊗ XᵀX/n with
    A the mean of diag(q_i) - q_i q_iᵀ (Martens & Grosse, 2015, make the same approximation). XᵀX/n = V Λ Vᵀ is
    decomposed once for all values, all steps and all sets of labels; A is c × c and follows the fit, which matters on
    nearly separable data, where it shrinks by orders of magnitude. The pairs of the values before are kept: the
    penalty's share is known, and the rest is scaled by the trace of A.

    Measured against all values stacked in one product from a cold start, this takes a quarter of the evaluations, which
    outweighs the wider product's better use of the processor.

    **Many samples.** On a CPU, where they are enough to draw from, Newton's steps go before: each is solved by
    conjugate gradients with a Hessian of a tenth of the samples (`SampledHessian`), and evaluated on all of them. The
    preconditioner is L-BFGS's inverse Hessian, and each direction with its product becomes one of its pairs (Morales &
    Nocedal, 2000), so that no system searches again what those before have found: at other points, in other samples, at
    other values. L-BFGS takes over where such a step leads upwards, as it does where a feature is large in few samples,
    or the largest sample does not know the Hessian; where it slows down, Newton's steps are tried again.

    **Many classes.** With more than `_MANY` a value begins at the guess that is best on a tenth of the samples, with
    the class curvature there: an evaluation of each guess on all samples, with theirs, took as long as what followed.

    Attributes:
        values: Eigenvalues of the Gram matrix.
        axes: Its leading eigenvectors; None where the heads are given in all of them.
        rest: Its eigenvalue in all directions beside the axes.
        memory: Pairs kept.
        floor: Least curvature that is counted on, over the largest; float32 does not resolve less.
    """

    samples: Samples
    target: float
    max_iterations: int
    values: Float[Tensor, " r"]
    axes: Float[Tensor, "d r"] | None
    rest: float
    memory: int
    floor: float = 1e-6

    def fitting(self) -> Fit:
        """See `AbstractContinuation.fitting`; the pairs are kept from value to value."""
        objective, pairs, attempt = self._tools(self.samples.dtype)
        trace, failures = 0.0, 0

        def fit(starts: Tensor, value: float, target: float, allowed: int) -> tuple[Tensor, int]:
            nonlocal trace, failures
            starts = starts.to(self.samples.dtype)
            l2 = torch.full((1,), value, dtype=torch.float64, device=starts.device)
            sampling = failures < _FAILURES and self._sampling(value)
            axes = None
            if self._few is not None:
                starts, axes = _likeliest(self._few, starts, l2)
            first = objective(starts, l2.repeat(len(starts)), with_curvature=axes is None)
            points = [self._point(start, first, i, value, axes) for i, start in enumerate(starts)]
            # Far away the gap bounds nothing; L-BFGS, whose curvature is that of where it has been, starts by it.
            points.sort(key=lambda point: point.objective if sampling and math.isfinite(point.gap) else point.gap)
            point = points[0]
            if _reached(point, target):
                return point.head, 1
            now = float(point.curvature.values.sum())
            pairs.move(l2, now / trace if trace > 0 and now > 0 else 1.0)
            for other in points[1:]:
                self._add(pairs, point, other, value)
            spent = 0
            if sampling:
                before = point
                point, spent = self._newton_first(objective, attempt, before, pairs, value, target, allowed)
                failures = failures + 1 if point is before else 0
            end, more = self._descend(attempt, point, pairs, value, target, max(allowed - spent, 0))
            trace = float(end.curvature.values.sum())
            return end.head, 1 + spent + more

        return fit

    def refine(
        self, heads: Float[Tensor, "q m e"], l2: Float[Tensor, " q"], target: float
    ) -> tuple[Float[Tensor, "q m e"], Int[Tensor, " q"]]:
        """See `AbstractContinuation.refine`."""
        refined, spent = [], []
        for head, value in zip(heads.double(), l2.tolist(), strict=True):
            objective, pairs, attempt = self._tools(torch.float64)
            first = objective(head[None], l2.new_full((1,), value), with_curvature=True)
            start, newton = self._point(head, first, 0, value), 0
            pairs.move(l2.new_full((1,), value))
            if self._sampling(value):
                given = objective, attempt, start, pairs, value, target, self.max_iterations
                start, newton = self._newton_first(*given)
            end, count = self._descend(attempt, start, pairs, value, target, max(self.max_iterations - newton, 0))
            refined.append(end.head)
            spent.append(1 + newton + count)
        return torch.stack(refined), torch.tensor(spent)

    @cached_property
    def _few(self) -> Objective | None:
        """The objective of a tenth of the samples, a view of all; None where classes are few, or it brings nothing."""
        s = self.samples
        in_memory = isinstance(s.features, Tensor) and s.features.device.type == "cpu"
        if s.n_classes <= _MANY or not in_memory or len(s.features) < _ENOUGH * s.n_classes:
            return None
        return replace(s, features=s.features[::_TENTH], targets=s.targets[::_TENTH]).objective(s.dtype)

    def _tools(self, dtype: torch.dtype) -> tuple[Callable[..., Evaluation], Pairs, Try]:
        """The objective, what is known of its curvature, and what tries a step: as graphs where a GPU has all of it."""
        objective, like = self.samples.objective(dtype), self.zero.to(dtype)
        affordable = PAIR_BYTES // (3 * like.numel() * like.element_size())
        pairs = Pairs(min(self.memory, max(4, affordable)), like)
        attempt = tried(objective, self._metric(dtype), pairs)
        if isinstance(self.samples.features, Tensor) and self.samples.features.is_cuda:
            return Graphed(objective), pairs, Graphed(attempt)
        return objective, pairs, attempt

    def _point(
        self, head: Tensor, evaluation: Evaluation, i: int, l2: float, curvature: ClassAxes | None = None
    ) -> Point:
        found = Readout.of(evaluation, i)
        curvature = found.curvature or curvature
        assert curvature is not None
        gap = self._gap(l2, found, curvature)
        return Point(head, found.objective, evaluation.gradient[i].clone(), curvature, gap)

    def _add(self, pairs: Pairs, start: Point, other: Point, l2: float) -> None:
        value = torch.full((1,), l2, dtype=torch.float64, device=start.head.device)
        self._remember(pairs, pairs.pair(other.head - start.head, start.gradient, other.gradient, value))

    @staticmethod
    def _remember(pairs: Pairs, pair: Pair) -> None:
        if Pair.curved(pair.products.double().tolist()):
            pairs.add(pair)

    def _gap(self, l2: float, found: Readout, curvature: ClassAxes) -> float:
        """The duality gap's main term, and what Newton's step says the bias is worth; relative."""
        if not found.finite:
            return math.inf
        if l2 == 0:
            return math.sqrt(found.square + float(found.slope.square().sum())) / self.first_slope
        a = curvature.values
        turned = curvature.vectors.T @ found.slope.to(a.device)
        worth = float((turned.square() / a.clamp_min(1e-12 * float(a[-1]) + 1e-300)).sum())
        return (found.square / (2 * l2) + worth) / max(found.objective, torch.finfo(torch.float64).tiny)

    def _sampling(self, l2: float) -> bool:
        """Whether Newton's steps are taken before L-BFGS: on a CPU, where samples are many enough to draw from."""
        return self.samples.features.device.type == "cpu" and l2 > 0 and worth_sampling(*self._sizes)

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        """Samples, features, classes, and bytes of a number in the first fit's products."""
        return *self.samples.features.shape, self.samples.n_classes, self.samples.dtype.itemsize

    def _newton_first(
        self,
        objective: Callable[..., Evaluation],
        attempt: Try,
        start: Point,
        pairs: Pairs,
        l2: float,
        target: float,
        allowed: int,
    ) -> tuple[Point, int]:
        """Newton's steps, and L-BFGS in turn with them as long as they move.

        Returns:
            Where they end, the start itself where no Newton's step led downwards, and what they have spent.
        """
        draws, now, spent = _Draws(*sample_sizes(*self._sizes)), start, 0
        while True:
            before = now
            now, more = self._newton(objective, now, l2, target, allowed - spent, pairs, draws)
            spent += more
            if now is before or _reached(now, target) or spent >= allowed:
                return now, spent
            now, more = self._descend(attempt, now, pairs, l2, target, allowed - spent, _TURN)
            spent += more

    def _newton(
        self,
        objective: Callable[..., Evaluation],
        start: Point,
        l2: float,
        target: float,
        allowed: int,
        pairs: Pairs,
        draws: _Draws,
    ) -> tuple[Point, int]:
        """Newton's steps with a Hessian of some samples, as long as they lead downwards; see `SampledHessian`.

        Each is solved in the samples' own precision, and counts by the share of the samples that its products read.
        """
        now, spent, rounding = start, 0.0, 50 * torch.finfo(start.head.dtype).eps
        value = torch.full((1,), l2, dtype=torch.float64)
        while now.gap < math.inf and spent < allowed and not _reached(now, target):
            if draws.by is None:
                s = self.samples
                draws.by = doubts(s.features, s.targets, self._every_class(now.head), s.squares, s.weights)
                spent += 0.5 if isinstance(s.features, Tensor) else 1.0
            step, cost = self._newton_step(now, l2, target, pairs, draws, allowed - spent)
            spent += cost
            new, length = None, 1.0
            while new is None and length >= _SHORTEST and spent < allowed:
                head = now.head + length * step.to(now.head.dtype)
                evaluation = objective(head[None], value, with_curvature=True)
                there, spent = self._point(head, evaluation, 0, l2), spent + 1
                falls = there.objective < now.objective * (1 - rounding)
                # Where the objective's digits run out, the gap tells what is better.
                falls |= there.objective <= now.objective * (1 + rounding) and there.gap < now.gap
                new, length = there if falls and math.isfinite(there.gap) else None, 0.5 * length
            if new is None:
                break
            gain = relative_gain(now.objective, new.objective, float((now.gradient * step).sum()))
            slow, now = new.gap > _SLOW * now.gap, replace(new, gain=gain)
            if slow and draws.size >= draws.most:
                break
            draws.size = min(draws.most, 2 * draws.size) if slow else draws.size
        return now, math.ceil(spent)

    def _every_class(self, head: Float[Tensor, "m e"]) -> Float[Tensor, "c e"]:
        """Weights and biases of every class on the features, in the precision of the samples' products."""
        s = self.samples
        return basis(s.n_classes, s.dtype, head.device) @ _turned(
            head.to(s.dtype), None if s.axes is None else s.axes.T.to(s.dtype)
        )

    def _newton_step(
        self, now: Point, l2: float, target: float, pairs: Pairs, draws: _Draws, allowed: float
    ) -> tuple[Tensor, float]:
        """A step from a point, and what it costs: the Hessian, which is not kept, takes as much memory as is allowed.

        To draw its rows costs nothing where they are in memory, and a reading where they are not.
        """
        s = self.samples
        every, axes = basis(s.n_classes, s.dtype, now.head.device), None if s.axes is None else s.axes.to(s.dtype)
        assert draws.by is not None
        hessian = SampledHessian(
            s.features, s.targets, self._every_class(now.head), draws.by, draws.size, s.weights, draws.generator
        )

        def product(v: Tensor) -> Tensor:
            found = _turned(every.T @ (hessian @ self._every_class(v)), axes)
            found[:, :-1] += l2 * v[:, :-1]
            return found

        value = torch.full((1,), l2, dtype=torch.float64)
        precision, newest = pairs.steps.dtype, torch.tensor(pairs.newest)
        apply = self._metric(precision)(now.curvature.values, now.curvature.vectors, value)
        right, share = -now.gradient.to(s.dtype), hessian.size / len(s.features)
        enough = max(
            0.3 * math.sqrt(2 * l2 * target * now.objective),
            min(0.3, max(math.sqrt(now.gap), _FORCE)) * float(right.norm()),
        )
        drawn = 0.0 if isinstance(s.features, Tensor) else 1.0
        most = _DIRECTION_BYTES // (2 * right.numel() * right.element_size())
        found: deque[tuple[Tensor, Tensor]] = deque(maxlen=min(len(pairs.steps), max(1, most)))
        step, products = solved(
            product,
            lambda vectors: -pairs.direction(vectors[0].to(precision), newest, apply)[None].to(s.dtype),
            right,
            enough,
            max(1, int((allowed - drawn) / share)),
            lambda direction, turned: found.append((direction, turned)),
        )
        nothing = torch.zeros_like(right, dtype=precision)
        for direction, turned in found:
            self._remember(pairs, pairs.pair(direction.to(precision), nothing, turned.to(precision), value))
        return step, drawn + share * products

    def _refreshed(self, i: int) -> bool:
        """Whether an iteration evaluates the class curvature."""
        return self.samples.n_classes <= _MANY or i in (4, 8) or i % 16 == 0

    def _descend(
        self, attempt: Try, start: Point, pairs: Pairs, l2: float, target: float, allowed: int, patience: int = 0
    ) -> tuple[Point, int]:
        if _reached(start, target):
            return start, 0
        if not patience:
            patience = _PATIENCE if start.head.dtype != torch.float64 else self.max_iterations
        return minimise(
            start,
            attempt,
            lambda found, curvature: self._gap(l2, found, curvature),
            pairs,
            l2,
            target,
            allowed,
            patience,
            self._refreshed,
            _least_gain(target),
            _IDLE if start.head.dtype != torch.float64 else None,
        )

    def _metric(self, dtype: torch.dtype) -> Callable[[Tensor, Tensor, Tensor], Metric]:
        values = self.values.to(dtype)
        axes = None if self.axes is None else self.axes.to(dtype)

        def metric(a: Tensor, turn: Tensor, l2: Tensor) -> Metric:
            a = torch.maximum(a, 1e-9 * a[-1] + 1e-30).to(dtype)[:, None]
            turn, l2 = turn.to(dtype), l2.to(dtype)
            # Eigenvalues beneath float32's resolution of the largest are not known; l2 = 0 needs a floor as well.
            scale, beside = (1 / (a * (v + self.floor * values[-1]) + l2) for v in (values, self.rest))

            def apply(vectors: Tensor) -> Tensor:
                turned = turn.T @ vectors
                weight = turned[:, :, :-1]
                along = None if axes is None else ((weight @ axes) * (scale - beside)) @ axes.T
                weight = weight * scale if along is None else weight * beside + along
                return turn @ torch.cat([weight, turned[:, :, -1:] / a], 2)

            return apply

        return metric


def _likeliest(
    few: Objective, starts: Float[Tensor, "k m e"], l2: Float[Tensor, " 1"]
) -> tuple[Float[Tensor, "1 m e"], ClassAxes]:
    """The guess whose objective is lowest on some samples, and the class curvature there."""
    found = few(starts, l2.repeat(len(starts)), with_curvature=True)
    assert found.curvature is not None
    best = int(found.objective.nan_to_num(torch.inf).argmin())
    return starts[best][None], ClassAxes.of(found.curvature[best])


def _least_gain(target: float) -> float:
    """The gain of a step, see `Point`, at which a value is left that is to reach a gap; 0 for one to be certified."""
    return _GAIN if target >= ROUGH else 0.0


def _reached(point: Point, target: float) -> bool:
    return point.gap <= target or point.gain < _least_gain(target)


def _turned(heads: Float[Tensor, "q e"], axes: Float[Tensor, "d r"] | None) -> Tensor:
    """Heads whose weights are given along axes; their biases stay."""
    return heads if axes is None else torch.cat([heads[:, :-1] @ axes, heads[:, -1:]], 1)


def _rungs(values: list[float]) -> list[tuple[float, bool]]:
    """The values in descending order, with rough ones between where they lie far apart."""
    steps: list[tuple[float, bool]] = []
    above = max(1.0, values[0])
    for value in values:
        if value > 0:
            to = min(max(value, _LOWEST), above)
            between = math.ceil((math.log(above) - math.log(to)) / math.log(_RUNG)) - 1
            steps += [(above * (to / above) ** (i / (between + 1)), True) for i in range(1, between + 1)]
            above = value
        steps.append((value, False))
    return steps


def _place(l2: float) -> float:
    """Where a value lies on a logarithmic scale that has an end."""
    return math.log(max(l2, _LOWEST))


def _extrapolate(known: list[tuple[float, Tensor]], l2: float) -> list[Tensor]:
    """Guesses from the last heads found at larger values, by polynomials in log l2 and in l2."""
    if len(known) < 2:
        return [head for _, head in known]
    heads = torch.stack([head for _, head in known])
    guesses = []
    if l2 > 0:
        guesses.append(_lagrange([math.log(value) for value, _ in known], math.log(l2)))
    guesses.append(_lagrange([value for value, _ in known], l2))
    return [torch.einsum("k,kme->me", torch.tensor(w, dtype=heads.dtype, device=heads.device), heads) for w in guesses]


def _lagrange(at: list[float], to: float) -> list[float]:
    return [math.prod((to - b) / (a - b) for j, b in enumerate(at) if j != i) for i, a in enumerate(at)]
