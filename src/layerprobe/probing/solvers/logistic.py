"""Multinomial logistic regression, the whole L2 path to its optimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.solvers.centred_axes import FLOOR, Centred
from layerprobe.probing.solvers.duality_gap import certify
from layerprobe.probing.solvers.l2_path import AbstractContinuation, Continuation, Samples
from layerprobe.probing.solvers.newton import LARGEST, Newton, possible
from layerprobe.probing.solvers.precision import full_precision
from layerprobe.probing.solvers.softmax_objective import log_odds, of_classes
from layerprobe.probing.solvers.solution import Solution, Status
from layerprobe.probing.solvers.solver import AbstractSolver, Decompose, Stop, of_mean_one
from layerprobe.probing.solvers.spectrum import Spectrum
from layerprobe.probing.solvers.threads import evaluation_operations, threads_for

_ABSENT = -60.0
"""Score of a class without a training sample, below the lowest bias: its probability is beneath rounding."""

_NOTHING = 1e-15
"""A difference of objectives, in nats, that float64 cannot tell from none."""


@dataclass(frozen=True)
class Logistic(AbstractSolver):
    r"""Mean cross-entropy + ½·l2·‖W‖²_F, bias unpenalised, minimised for every L2 value.

    Where classes are weighted, the mean is Σ w_i loss_i / Σ w_i, as with scikit-learn's `class_weight` at the
    `C` of which 1/(C Σ w_i) = l2.

    `l2_path` says how the optimum is reached and `duality_gap` how it is known. A value at which float32 products stop
    short of the certificate is refined in float64, unless it was the evaluations that ran out. The head is returned in
    the features' precision, and its objective and gap are those of the head as returned: where a refined head is
    rounded, its objective is evaluated after rounding and the bound before, which stays a bound.

    For l2 = 0 there is no bound: `gap` is then the gradient's norm over that at W = 0, and on data that the head
    separates there is no optimum, which is `stalled`. With two classes the weights are W and -W: scikit-learn's binary
    model, which has one vector w = 2W and the penalty 1/(2Cn)·‖w‖², is the same at 1/(Cn) = l2/2.

    Attributes:
        tolerance: A value has converged when its gap is at most this.
        max_iterations: Evaluations of each value, after which it is left where it is.
        memory: Pairs that L-BFGS keeps at most; where a head is large, as many as are affordable.
    """

    tolerance: float = 1e-5
    max_iterations: int = 500
    memory: int = 100
    name: ClassVar[str] = "logistic"

    def __post_init__(self) -> None:
        """Refuse a fit that cannot be.

        Raises:
            ValueError: Naming the field.
        """
        if not self.tolerance > 0:
            raise ValueError(f"`tolerance` of the solver logistic is {self.tolerance}. Give a value above 0.")
        for name in ("max_iterations", "memory"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` of the solver logistic is {getattr(self, name)}. Give at least 1.")

    def losses(self, scores: Float[Tensor, "n c"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Cross-entropy."""
        return F.cross_entropy(scores, targets, reduction="none")

    def ranking(self, scores: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Log-odds of the softmax's probabilities."""
        return log_odds(scores)

    def solve(
        self,
        features: Features,
        targets: Int[Tensor, " n"],
        n_classes: int,
        l2: Float[Tensor, " p"],
        spectrum: Decompose | None = None,
        stop: Stop | None = None,
        rough: bool = False,
        weights: Float[Tensor, " c"] | None = None,
    ) -> Solution:
        """See `AbstractSolver.solve`."""
        if weights is not None:
            weights = of_mean_one(weights, targets)
        decompose, c = cache(partial(Spectrum.of, features)) if spectrum is None else spectrum, len(targets.unique())
        # One long computation, which is worth all threads where a single evaluation is not.
        if c > 1 and not _by_newton(features, c, l2) and not _by_newton(decompose().fitted(features), c, l2):
            _ = decompose().in_axes
        with self.settings(features, n_classes, len(l2)):
            return self._solve(features, targets, n_classes, l2, decompose, stop, rough, weights)

    @contextmanager
    def settings(self, features: Features, n_classes: int, p: int) -> Iterator[None]:
        """Use the threads and the precision of products that a fit of p values needs."""
        with threads_for(evaluation_operations(len(features), features.shape[1], n_classes, p)), full_precision():
            yield

    def _solve(
        self,
        features: Features,
        targets: Tensor,
        n_classes: int,
        l2: Tensor,
        decompose: Decompose,
        stop: Stop | None,
        rough: bool,
        weights: Tensor | None,
    ) -> Solution:
        present, places = targets.unique(return_inverse=True)
        if len(present) < n_classes:
            weights = None if weights is None else weights[present]
            return self._with_absent(features, places, present, n_classes, l2, decompose, stop, rough, weights)
        l2 = l2.to(features.device, torch.float64)
        if n_classes == 1:
            return _trivial(len(l2), n_classes, features, finite=True)
        direct = _by_newton(features, n_classes, l2) and math.isfinite(float(features[:].sum(dtype=torch.float64)))
        if not direct and decompose().narrow and bool((l2 == 0).any()):
            # No bound would tell what the directions beside are worth.
            decompose = cache(partial(Spectrum.in_all_axes, features))
        if not (direct or decompose().finite):
            return _trivial(len(l2), n_classes, features, finite=False)
        fits = self.fits(features, targets, n_classes, l2, decompose, weights)

        def past(head: Tensor) -> bool:
            assert stop is not None
            weight, bias = fits.whole(head[None])
            return stop(weight[0].to(features.dtype), bias[0].to(features.dtype))

        fits.follow(None if stop is None else past, rough)
        return fits.solution()

    def fits(
        self,
        features: Features,
        targets: Tensor,
        n_classes: int,
        l2: Tensor,
        decompose: Decompose,
        weights: Tensor | None,
        *,
        by_newton: bool = True,
    ) -> _Fits:
        """The values of a path, none of them fitted yet; see `_Fits`."""
        direct, target = by_newton and _by_newton(features, n_classes, l2), 0.5 * self.tolerance
        spectrum = None if direct else decompose()
        fitted = features if spectrum is None else spectrum.fitted(features)
        if by_newton and _by_newton(fitted, n_classes, l2):
            # Half of the evaluations of a wide head are for L-BFGS, where Newton's steps lead no further.
            wide = (n_classes - 1) * (fitted.shape[1] + 1) > LARGEST
            most = -(-self.max_iterations // 2) if wide else self.max_iterations
            samples = Samples(fitted, targets, n_classes, features.dtype, weights=weights)
            newton = Newton(samples, target, most, decompose)
            return _Fits(self, features, targets, n_classes, l2, decompose, spectrum, newton)
        assert spectrum is not None
        spectrum = spectrum.in_axes
        assert spectrum.values is not None
        span, vectors, fitted = spectrum.span, spectrum.vectors, spectrum.fitted(features)
        every = vectors if span is None and vectors is not None and vectors.shape[0] == vectors.shape[1] else None
        path = Continuation(
            Samples(fitted, targets, n_classes, features.dtype, every, weights),
            target,
            self.max_iterations,
            spectrum.values,
            vectors if span is None and every is None else None,
            spectrum.rest,
            self.memory,
        )
        return _Fits(self, features, targets, n_classes, l2, decompose, spectrum, path)

    def _with_absent(
        self,
        features: Features,
        places: Tensor,
        present: Tensor,
        n_classes: int,
        l2: Tensor,
        decompose: Decompose,
        stop: Stop | None,
        rough: bool,
        weights: Tensor | None,
    ) -> Solution:
        """Classes without a training sample have weight 0 and, at the optimum, a bias of -∞: here a very low one."""

        def whole(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
            every = weight.new_zeros(*weight.shape[:-2], n_classes, weight.shape[-1])
            biases = (bias.amin(-1, keepdim=True) + _ABSENT).expand(*bias.shape[:-1], n_classes).clone()
            every[..., present, :], biases[..., present] = weight, bias
            return every, biases

        past = None if stop is None else lambda weight, bias: stop(*whole(weight, bias))

        def every(found: Solution) -> Solution:
            weight, bias = whole(found.weight, found.bias)
            certify = found.certify
            further = None if certify is None else lambda places: every(certify(places))
            return replace(found, weight=weight, bias=bias, certify=further)

        return every(self._solve(features, places, len(present), l2, decompose, past, rough, weights))


class _Fits:
    """The values of one path, and what is known of each so far.

    Args:
        solver: What is asked of them.
        features: The samples.
        targets: Class indices; every class has a sample.
        n_classes: Number of classes.
        l2: L2 values, float64, on the features' device.
        decompose: Hands over the features' spectrum.
        spectrum: That spectrum; None where the features are fitted as they are.
        path: What follows the optimum.
    """

    def __init__(
        self,
        solver: Logistic,
        features: Features,
        targets: Tensor,
        n_classes: int,
        l2: Tensor,
        decompose: Decompose,
        spectrum: Spectrum | None,
        path: AbstractContinuation,
    ) -> None:
        self.solver, self.features, self.targets, self.n_classes, self.l2 = solver, features, targets, n_classes, l2
        self.decompose = decompose
        self.span, self.narrow = (None, False) if spectrum is None else (spectrum.span, spectrum.narrow)
        self.path = path
        (p, d), c, device = (len(l2), features.shape[1]), n_classes, features.device
        self.iterations = torch.zeros(p, dtype=torch.int64)
        self.rough = torch.zeros(p, dtype=torch.bool)
        self.weight = torch.full((p, c, d), torch.nan, dtype=torch.float64, device=device)
        self.bias = torch.full((p, c), torch.nan, dtype=torch.float64, device=device)
        self.objective, self.slope = (torch.full_like(l2, torch.nan) for _ in range(2))
        self.bound = torch.zeros_like(l2)
        self.separated = torch.zeros(p, dtype=torch.bool, device=device)
        self.first_slope = path.first_slope if bool((l2 == 0).any()) else 1.0

    def whole(self, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and biases of every class on the features, float64, from the path's own coordinates."""
        weight, bias = _every_class(heads, self.n_classes)
        if self.path.samples.axes is not None:
            weight = weight @ self.path.samples.axes.T.double()
        return (weight if self.span is None else self.span.back(weight, self.features)), bias

    def follow(self, stop: Callable[[Tensor], bool] | None, rough: bool) -> None:
        """Fit the values from the largest on; where not roughly, to their certificates."""
        self.heads, self.iterations = self.path.follow(self.l2, stop, rough)
        self.heads = self.heads.double()
        fitted = (self.iterations > 0).nonzero().flatten()
        if not rough:
            self._measure(fitted)
            self._prove(fitted)
            return
        self._measure(fitted, self.features.dtype)
        # What may be certified already is measured as heads are that are to be.
        self._measure_again(fitted[(self.gaps()[fitted] <= 10 * self.solver.tolerance).cpu()])
        self.rough[fitted] = (self.gaps()[fitted] > self.solver.tolerance).cpu()

    def certify(self, places: Sequence[int]) -> Solution:
        """See `Solution.certify`."""
        which = torch.tensor(sorted({place for place in places if self.rough[place]}), dtype=torch.int64)
        if len(which):
            with self.solver.settings(self.features, self.n_classes, len(which)):
                exact = (~self.rough & (self.iterations > 0)).nonzero().flatten().tolist()
                heads, more = self.path.improve(self.heads, self.l2, self.iterations, which.tolist(), exact)
                self.heads[which], self.iterations[which] = heads.double(), self.iterations[which] + more
                self.rough[which] = False
                self._measure_again(which)
                self._prove(which)
        return self.solution()

    def _measure(self, which: Tensor, precision: torch.dtype = torch.float64) -> None:
        """Find the certificates of heads as they will be returned."""
        dtype = self.features.dtype
        self.weight[which], self.bias[which] = (part.to(dtype).double() for part in self.whole(self.heads[which]))
        heads, weights = (self.weight[which], self.bias[which], self.l2[which]), self.path.samples.weights
        found = certify(self.features, self.targets, *heads, weights, precision)
        self.objective[which], self.slope[which] = found.objective, found.slope
        # Every bound found is a bound on the same optimum; the best one stands.
        self.bound[which] = torch.maximum(self.bound[which], found.bound)
        self.separated[which] = found.separated

    def _measure_again(self, which: Tensor) -> None:
        """Find the certificates of heads whose bounds are of the precision of the features so far."""
        if len(which):
            self.bound[which] = 0.0
            self._measure(which)

    def gaps(self) -> Tensor:
        """How far each value is from its optimum at most, relative to the objective."""
        objective = self.objective
        relative = ((objective - self.bound - _NOTHING).clamp_min(0) / objective.clamp_min(_NOTHING)).clamp_max(1.0)
        return torch.where(self.l2 > 0, relative, self.slope / self.first_slope).nan_to_num(torch.inf)

    def _failed(self, which: Tensor, most: int | None = None) -> Tensor:
        # Where the evaluations have run out, more precision is not what is missing.
        on_its_way = self.iterations <= (self.path.max_iterations if most is None else most)
        failed = (self.gaps() > self.solver.tolerance) & ((self.l2 > 0) | ~self.separated)
        return which[(failed.cpu() & on_its_way)[which]]

    def _take(self, which: Tensor, exact: tuple[Tensor, Tensor]) -> None:
        """Return other heads than the first, and keep the better bound."""
        rounded = tuple(part.to(self.features.dtype).double() for part in exact)
        for i, k in enumerate(which.tolist()):
            pair = [torch.stack([r[i], e[i]]) for r, e in zip(rounded, exact, strict=True)]
            l2, weights = self.l2[k].expand(2), self.path.samples.weights
            both = certify(self.features, self.targets, pair[0], pair[1], l2, weights)
            self.weight[k], self.bias[k] = rounded[0][i], rounded[1][i]
            self.objective[k], self.bound[k] = both.objective[0], torch.maximum(self.bound[k], both.bound.amax())
            self.slope[k], self.separated[k] = both.slope[1], both.separated[0]

    def _prove(self, which: Tensor) -> None:
        """Bring heads that single precision has left short of the certificate to it."""
        tolerance, span = self.solver.tolerance, self.span
        # The bound before rounding is better, and there already.
        failed = self._failed(which)
        if len(failed):
            self._take(failed, self.whole(self.heads[failed]))
        # The certificate is harder to meet than its estimate during the fit, so a failure also tightens that.
        for tighter in (0.5, 0.1, 0.02):
            failed = self._failed(which)
            if not len(failed):
                break
            heads, more = self.path.refine(self.heads[failed], self.l2[failed], tighter * tolerance)
            self.heads[failed] = heads
            self.iterations[failed] += more
            self._take(failed, self.whole(heads))
        failed = which[((self.gaps() > tolerance) & (self.l2 > 0)).cpu()[which]]
        fitted, newton = self.path.samples.features, isinstance(self.path, Newton)
        # Wide heads of Newton's method are fitted anew below, in the samples' span.
        centred = Centred.of(fitted) if len(failed) and not (newton and fitted.shape[1] > len(fitted)) else None
        if centred is not None:
            weight, bias, more = self._about_means(centred, self.l2[failed])
            self.iterations[failed] += more
            self._take(failed, (weight if span is None else span.back(weight, self.features), bias))
        failed = self._failed(which, self.solver.max_iterations)
        if (self.narrow or newton) and len(failed):
            # What lies beside the few dimensions counts at these values, or Newton's steps have led no further.
            features, solver = self.features, self.solver
            decompose = cache(partial(Spectrum.in_all_axes, features)) if self.narrow else self.decompose
            if newton:
                left = solver.max_iterations - int(self.iterations[failed].max())
                solver = replace(solver, max_iterations=max(1, left))
            given = features, self.targets, self.n_classes, self.l2[failed], decompose, self.path.samples.weights
            again = solver.fits(*given, by_newton=False)
            again.follow(None, rough=False)
            self.iterations[failed] += again.iterations
            better = (again.gaps() < self.gaps()[failed]).cpu()
            for name in ("weight", "bias", "objective", "bound"):
                getattr(self, name)[failed[better]] = getattr(again, name)[better]

    def solution(self) -> Solution:
        """The solution with what is known by now."""
        dtype, fitted = self.features.dtype, self.iterations > 0
        gap = self.gaps().masked_fill(~fitted.to(self.l2.device), torch.nan)
        columns = (part.tolist() for part in (self.objective, gap, self.l2, self.separated, self.rough, fitted))
        return Solution(
            weight=self.weight.to(dtype, copy=True),
            bias=self.bias.to(dtype, copy=True),
            objective=self.objective.clone(),
            gap=gap,
            iterations=self.iterations.clone(),
            status=tuple(self._status(*values) for values in zip(*columns, strict=True)),
            certify=self.certify if self.rough.any() else None,
        )

    def _status(self, objective: float, gap: float, l2: float, separated: bool, rough: bool, fitted: bool) -> Status:
        if not fitted:
            return Status.SKIPPED
        if not math.isfinite(objective):
            return Status.DIVERGED
        if rough:
            return Status.ROUGH
        has_optimum = l2 > 0 or not separated
        return Status.CONVERGED if has_optimum and gap <= self.solver.tolerance else Status.STALLED

    def _about_means(self, centred: Centred, l2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fit anew in float64, about the means and in the axes of the covariance; see `Centred`.

        Returns:
            Weights and biases for the features as they are, and the evaluations spent.
        """
        solver = self.solver
        path = Continuation(
            Samples(centred.rows, self.targets, self.n_classes, torch.float64, centred.axes, self.path.samples.weights),
            0.1 * solver.tolerance,
            solver.max_iterations,
            centred.values,
            None,
            0.0,
            solver.memory,
            FLOOR,
        )
        heads, iterations = path.follow(l2)
        weight, bias = _every_class(heads, self.n_classes)
        weight = weight @ centred.axes.T
        return weight, bias - weight @ centred.mean, iterations


def _by_newton(fitted: Features, n_classes: int, l2: Tensor) -> bool:
    """Whether Newton's method fits samples as they are, or their coordinates, at these values."""
    return possible(fitted, n_classes) and bool((l2 > 0).all())


def _every_class(heads: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Weights and biases of every class, float64, from contrasts."""
    full = of_classes(heads.double())
    return full[:, :, :-1].contiguous(), full[:, :, -1].contiguous()


def _trivial(p: int, c: int, features: Features, *, finite: bool) -> Solution:
    """One class: nothing to learn. Features that are not finite: nothing can be."""
    value = 0.0 if finite else torch.nan
    status = Status.CONVERGED if finite else Status.DIVERGED
    fill = torch.full((p,), value, dtype=torch.float64, device=features.device)
    weight = torch.full((p, c, features.shape[1]), value, dtype=features.dtype, device=features.device)
    return Solution(weight, weight.new_full((p, c), value), fill, fill.clone(), torch.zeros(p).long(), (status,) * p)
