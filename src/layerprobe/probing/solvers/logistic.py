"""Multinomial logistic regression, the whole L2 path to its optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.solvers.centred_axes import FLOOR, Centred
from layerprobe.probing.solvers.cpu_threads import evaluation_operations, threads_for
from layerprobe.probing.solvers.duality_gap import certify
from layerprobe.probing.solvers.gram import Spectrum
from layerprobe.probing.solvers.l2_path import Path, Samples
from layerprobe.probing.solvers.softmax_objective import basis, log_odds
from layerprobe.probing.solvers.solution import Solution, Status
from layerprobe.probing.solvers.solver import AbstractSolver, Stop
from layerprobe.probing.solvers.tf32 import full_precision

_ABSENT = -60.0
"""Score of a class without a training sample, below the lowest bias: its probability is beneath rounding."""

_NOTHING = 1e-15
"""A difference of objectives, in nats, that float64 cannot tell from none."""


@dataclass(frozen=True)
class Logistic(AbstractSolver):
    r"""Mean cross-entropy + ½·l2·‖W‖²_F, bias unpenalised, minimised for every L2 value.

    `path` says how the optimum is reached and `duality` how it is known. A value at which float32 products stop short
    of the certificate is refined in float64, unless it was the evaluations that ran out. The head is returned in the
    features' precision, and its objective and gap are those of the head as returned: where a refined head is rounded,
    its objective is evaluated after rounding and the bound before, which stays a bound.

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
        spectrum: Spectrum | None = None,
        stop: Stop | None = None,
    ) -> Solution:
        """See `AbstractSolver.solve`."""
        # One long computation, which is worth all threads where a single evaluation is not.
        spectrum = spectrum or Spectrum.of(features)
        operations = evaluation_operations(len(features), features.shape[1], n_classes, len(l2))
        with threads_for(operations), full_precision():
            return self._solve(features, targets, n_classes, l2, spectrum, stop)

    def _solve(
        self,
        features: Features,
        targets: Tensor,
        n_classes: int,
        l2: Tensor,
        spectrum: Spectrum,
        stop: Stop | None,
    ) -> Solution:
        present, places = targets.unique(return_inverse=True)
        if len(present) < n_classes:
            return self._with_absent(features, places, present, n_classes, l2, spectrum, stop)
        l2 = l2.to(features.device, torch.float64)
        if spectrum.narrow and bool((l2 == 0).any()):
            # No bound would tell what the directions beside are worth.
            spectrum = Spectrum.in_all_axes(features)
        if n_classes == 1 or not torch.isfinite(spectrum.values).all():
            return _trivial(len(l2), n_classes, features, finite=n_classes == 1)
        span, vectors = spectrum.span, spectrum.vectors
        every = vectors if span is None and vectors is not None and vectors.shape[0] == vectors.shape[1] else None
        fitted_to = features if span is None else span.coordinates
        path = Path(
            Samples(fitted_to, targets, n_classes, features.dtype, every),
            spectrum.values,
            vectors if span is None and every is None else None,
            spectrum.rest,
            0.5 * self.tolerance,
            self.max_iterations,
            self.memory,
        )

        def whole(heads: Tensor) -> tuple[Tensor, Tensor]:
            weight, bias = _every_class(heads, n_classes)
            if every is not None:
                weight = weight @ every.T.double()
            return (weight if span is None else span.back(weight, features)), bias

        def past(head: Tensor) -> bool:
            assert stop is not None
            weight, bias = whole(head[None])
            return stop(weight[0].to(features.dtype), bias[0].to(features.dtype))

        heads, iterations = path.follow(l2, None if stop is None else past)
        fitted = iterations > 0
        heads, iterations, l2 = heads[fitted.to(heads.device)], iterations[fitted], l2[fitted.to(l2.device)]
        heads64 = heads.double()
        weight, bias = whole(heads)
        returned = (weight.to(features.dtype).double(), bias.to(features.dtype).double())
        found = certify(features, targets, *returned, l2)
        objective, bound, slope, separated = found.objective, found.bound, found.slope, found.separated
        first = path.first_slope if bool((l2 == 0).any()) else 1.0

        def gaps() -> Tensor:
            relative = ((objective - bound - _NOTHING).clamp_min(0) / objective.clamp_min(_NOTHING)).clamp_max(1.0)
            return torch.where(l2 > 0, relative, slope / first).nan_to_num(torch.inf)

        def failed() -> Tensor:
            # Where the evaluations have run out, more precision is not what is missing.
            on_its_way = iterations.to(l2.device) <= self.max_iterations
            return ((gaps() > self.tolerance) & on_its_way & ((l2 > 0) | ~separated)).nonzero().flatten()

        def take(which: Tensor, exact: tuple[Tensor, Tensor]) -> None:
            """Return other heads than the first, and keep the better bound."""
            rounded = tuple(part.to(features.dtype).double() for part in exact)
            for i, k in enumerate(which.tolist()):
                pair = [torch.stack([r[i], e[i]]) for r, e in zip(rounded, exact, strict=True)]
                both = certify(features, targets, pair[0], pair[1], l2[k].expand(2))
                returned[0][k], returned[1][k] = rounded[0][i], rounded[1][i]
                # Every bound found is a bound on the same optimum; the best one stands.
                objective[k], bound[k] = both.objective[0], torch.maximum(bound[k], both.bound.amax())
                slope[k], separated[k] = both.slope[1], both.separated[0]

        # The certificate is harder to meet than its estimate during the fit, so a failure also tightens that.
        for tighter in (0.5, 0.1, 0.02):
            which = failed()
            if not len(which):
                break
            heads, more = path.refine(heads64[which], l2[which], tighter * self.tolerance)
            heads64[which] = heads
            iterations[which.cpu()] += more
            take(which, whole(heads))
        which = ((gaps() > self.tolerance) & (l2 > 0)).nonzero().flatten()
        centred = Centred.of(fitted_to) if len(which) else None
        if centred is not None:
            weight, bias, more = self._about_means(centred, targets, n_classes, l2[which])
            iterations[which.cpu()] += more
            take(which, (weight if span is None else span.back(weight, features), bias))
        gap, which = gaps(), failed()
        if spectrum.narrow and len(which):
            # What lies beside the few dimensions counts at these values.
            again = self._solve(features, targets, n_classes, l2[which], Spectrum.in_all_axes(features), None)
            iterations[which.cpu()] += again.iterations
            better = again.gap < gap[which]
            for whole_part, part in (
                (returned[0], again.weight),
                (returned[1], again.bias),
                (objective, again.objective),
                (gap, again.gap),
            ):
                whole_part[which[better]] = part[better].to(whole_part.dtype)
        solution = Solution(
            weight=returned[0].to(features.dtype),
            bias=returned[1].to(features.dtype),
            objective=objective,
            gap=gap,
            iterations=iterations,
            status=tuple(
                self._status(*values)
                for values in zip(objective.tolist(), gap.tolist(), l2.tolist(), separated.tolist(), strict=True)
            ),
        )
        return solution if fitted.all() else _with_skipped(solution, fitted)

    def _about_means(
        self, centred: Centred, targets: Tensor, n_classes: int, l2: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fit anew in float64, about the means and in the axes of the covariance; see `Centred`.

        Returns:
            Weights and biases for the features as they are, and the evaluations spent.
        """
        path = Path(
            Samples(centred.rows, targets, n_classes, torch.float64, centred.axes),
            centred.values,
            None,
            0.0,
            0.1 * self.tolerance,
            self.max_iterations,
            self.memory,
            FLOOR,
        )
        heads, iterations = path.follow(l2)
        weight, bias = _every_class(heads, n_classes)
        weight = weight @ centred.axes.T
        return weight, bias - weight @ centred.mean, iterations

    def _status(self, objective: float, gap: float, l2: float, separated: bool) -> Status:
        if not math.isfinite(objective):
            return Status.DIVERGED
        has_optimum = l2 > 0 or not separated
        return Status.CONVERGED if has_optimum and gap <= self.tolerance else Status.STALLED

    def _with_absent(
        self,
        features: Features,
        places: Tensor,
        present: Tensor,
        n_classes: int,
        l2: Tensor,
        spectrum: Spectrum,
        stop: Stop | None,
    ) -> Solution:
        """Classes without a training sample have weight 0 and, at the optimum, a bias of -∞: here a very low one."""

        def whole(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
            every = weight.new_zeros(*weight.shape[:-2], n_classes, weight.shape[-1])
            biases = (bias.amin(-1, keepdim=True) + _ABSENT).expand(*bias.shape[:-1], n_classes).clone()
            every[..., present, :], biases[..., present] = weight, bias
            return every, biases

        past = None if stop is None else lambda weight, bias: stop(*whole(weight, bias))
        found = self._solve(features, places, len(present), l2, spectrum, past)
        weight, bias = whole(found.weight, found.bias)
        return replace(found, weight=weight, bias=bias)


def _every_class(heads: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Weights and biases of every class, float64, from contrasts."""
    full = basis(n_classes, torch.float64, heads.device) @ heads.double()
    return full[:, :, :-1].contiguous(), full[:, :, -1].contiguous()


def _with_skipped(found: Solution, fitted: Bool[Tensor, " p"]) -> Solution:
    """Put NaN where nothing was fitted."""

    def spread(part: Tensor, fill: float | int) -> Tensor:
        whole = part.new_full((len(fitted), *part.shape[1:]), fill)
        whole[fitted.to(part.device)] = part
        return whole

    status = iter(found.status)
    return Solution(
        weight=spread(found.weight, torch.nan),
        bias=spread(found.bias, torch.nan),
        objective=spread(found.objective, torch.nan),
        gap=spread(found.gap, torch.nan),
        iterations=spread(found.iterations, 0),
        status=tuple(next(status) if was else Status.SKIPPED for was in fitted.tolist()),
    )


def _trivial(p: int, c: int, features: Features, *, finite: bool) -> Solution:
    """One class: nothing to learn. Features that are not finite: nothing can be."""
    value = 0.0 if finite else torch.nan
    status = Status.CONVERGED if finite else Status.DIVERGED
    fill = torch.full((p,), value, dtype=torch.float64, device=features.device)
    weight = torch.full((p, c, features.shape[1]), value, dtype=features.dtype, device=features.device)
    return Solution(weight, weight.new_full((p, c), value), fill, fill.clone(), torch.zeros(p).long(), (status,) * p)
