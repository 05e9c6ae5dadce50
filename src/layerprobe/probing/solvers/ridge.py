"""Ridge regression on one-hot targets or on numbers, every L2 value from one decomposition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.solvers.conjugate_gradient import NOTHING, CovarianceProduct, descend
from layerprobe.probing.solvers.leave_one_out import leave_one_out
from layerprobe.probing.solvers.moments import Axes, ClassSums, Moments, Rows
from layerprobe.probing.solvers.solution import LeftOut, Solution, Status
from layerprobe.probing.solvers.solver import AbstractSolver, Decompose, Stop, of_mean_one
from layerprobe.probing.solvers.spectrum import LARGEST, Spectrum


@dataclass(frozen=True)
class Ridge(AbstractSolver):
    """½·mean‖Wx + b - onehot(y)‖² + ½·l2·‖W‖²_F, bias unpenalised: the linear regression probe.

    With x̄ and ȳ the means, C = XᵀX/n - x̄x̄ᵀ = V Λ Vᵀ and B = XᵀY/n - x̄ȳᵀ, the gradient vanishes at
    W = V (Λ + l2)⁻¹ Vᵀ B and b = ȳ - Wx̄: one decomposition serves every value. Where d > n the same is done in the
    span of the samples (see `Spectrum`). Products of float32 numbers are exact in float64, and so is their sum to its
    rounding: the answer has float64's accuracy whatever the features' precision. For l2 = 0, eigenvalues beneath
    rounding are left out, which gives the solution of smallest norm.

    Where classes are weighted, every mean over the samples, x̄ and C among them, is Σ w_i … / Σ w_i.

    The objective is quadratic: at a gradient G it lies ½·tr(G (C + l2)⁻¹ Gᵀ) above its minimum. That over the objective
    is the gap, with no bound in between.

    Where samples and features are both more than `largest`, no such matrix is formed, and `conjugate_gradient` finds
    the optimum of each value with a bound on how far it is away.

    Where samples pass by and are not kept, `ClassSums` is all that has to be known of them.

    Attributes:
        tolerance: A value has converged when its gap is at most this.
        leave_one_out: Whether each head's leave-one-out loss and error on train are worked out as well, see
            `leave_one_out`; it costs as much as the decomposition's matrix. Where there is no validation split they
            choose the head, as scikit-learn's `RidgeCV` does. Not for streams; NaN beyond `largest`.
        largest: Largest matrix that is decomposed.
        max_iterations: Passes over the samples for each value beyond that, after which it is left where it is.
    """

    tolerance: float = 1e-5
    leave_one_out: bool = False
    largest: int = LARGEST
    max_iterations: int = 500
    name: ClassVar[str] = "ridge"

    def losses(self, scores: Float[Tensor, "n c"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Compute half the squared distance to the one-hot target."""
        return 0.5 * (scores - F.one_hot(targets, scores.shape[1])).square().sum(1)

    def ranking(self, scores: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Return the scores: they sum to 1, as the one-hot targets do."""
        return scores

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
        counts = None if weights is None else of_mean_one(weights, targets)[targets]
        return self._solve(
            features,
            lambda rows: F.one_hot(targets[rows], n_classes),
            n_classes,
            l2,
            spectrum,
            None if counts is None else counts.__getitem__,
        )

    def regress(
        self,
        features: Features,
        values: Float[Tensor, "n c"],
        l2: Float[Tensor, " p"],
        spectrum: Decompose | None = None,
    ) -> Solution:
        """Fit real numbers in place of one-hot targets.

        Args:
            features: As for `solve`.
            values: What to predict.
            l2: As for `solve`.
            spectrum: As for `solve`.

        Returns:
            The heads, with a status for each.
        """
        return self._solve(features, lambda rows: values[rows], values.shape[1], l2, spectrum, numbers=True)

    def _solve(
        self,
        features: Features,
        targets: Rows,
        c: int,
        l2: Tensor,
        spectrum: Decompose | None,
        counts: Rows | None = None,
        *,
        numbers: bool = False,
    ) -> Solution:
        l2 = l2.to(features.device, torch.float64)
        if min(features.shape) > self.largest:
            found = self._iterated(features, targets, c, l2, spectrum, counts)
            unknown = torch.full_like(found.objective, torch.nan)
            return replace(found, left_out=LeftOut(unknown, unknown)) if self.leave_one_out else found
        n, d = features.shape
        span = (Spectrum.of(features) if spectrum is None else spectrum()).span if d > n else None
        held = features if span is None else span.coordinates
        moments = Moments.of(held, targets, c, counts=counts)
        if not torch.isfinite(moments.covariance).all():
            return _nothing(len(l2), c, d, features.dtype, features.device)
        axes = moments.axes(l2)
        found = self._at(moments, axes, l2)
        if self.leave_one_out:
            found = replace(found, left_out=leave_one_out(held, targets, moments, axes, counts, numbers=numbers))
        weight = found.weight if span is None else span.back(found.weight, features)
        return replace(found, weight=weight.to(features.dtype), bias=found.bias.to(features.dtype))

    def _iterated(
        self,
        features: Features,
        targets: Rows,
        c: int,
        l2: Tensor,
        spectrum: Decompose | None,
        counts: Rows | None,
    ) -> Solution:
        product = CovarianceProduct.of(features, targets, c, counts=counts)
        if not torch.isfinite(product.cross).all():
            return _nothing(len(l2), c, features.shape[1], features.dtype, features.device)
        known = None if spectrum is None else spectrum()
        if known is None or known.vectors is None:
            known = Spectrum.of_sample(features)
        weight, objective, gap, passes = descend(product, known, l2, self.tolerance, self.max_iterations)
        bias = product.target_mean - weight @ product.mean
        status = tuple(Status.CONVERGED if value <= self.tolerance else Status.STALLED for value in gap.tolist())
        return Solution(weight.to(features.dtype), bias.to(features.dtype), objective, gap, passes, status)

    def from_sums(
        self,
        sums: ClassSums,
        classes: Int[Tensor, " c"],
        l2: Float[Tensor, " p"],
        weights: Float[Tensor, " c"] | None = None,
    ) -> Solution:
        """Fit samples of which only the sums are known.

        Args:
            sums: What has been seen of them.
            classes: The class indices, in the order of the heads' outputs.
            l2: L2 values, in any order; the solution has the same order.
            weights: What a sample of each class counts, as for `solve`.

        Returns:
            The heads for standardised features, with a status for each.
        """
        moments, l2 = sums.moments(classes, weights), l2.to(sums.device, torch.float64)
        if not torch.isfinite(moments.covariance).all():
            d, c = moments.cross.shape
            return _nothing(len(l2), c, d, sums.dtype, sums.device)
        found = self._at(moments, moments.axes(l2), l2)
        return replace(found, weight=found.weight.to(sums.dtype), bias=found.bias.to(sums.dtype))

    def _at(self, moments: Moments, axes: Axes, l2: Tensor) -> Solution:
        weight = (axes.vectors @ (axes.inverse[:, :, None] * axes.turned)).mT.contiguous()
        objective, gradient = moments.evaluate(weight, l2)
        excess = 0.5 * ((gradient @ axes.vectors).square() * axes.inverse[:, None, :]).sum((1, 2))
        gap = (excess - NOTHING).clamp_min(0) / objective.clamp_min(NOTHING)
        status = tuple(Status.CONVERGED if value <= self.tolerance else Status.STALLED for value in gap.tolist())
        bias = moments.target_mean - weight @ moments.feature_mean
        return Solution(weight, bias, objective, gap, torch.ones(len(l2), dtype=torch.int64), status)


def _nothing(p: int, c: int, d: int, dtype: torch.dtype, device: torch.device) -> Solution:
    """Return the solution for features that are not finite."""
    weight = torch.full((p, c, d), torch.nan, dtype=dtype, device=device)
    bad = torch.full((p,), torch.nan, dtype=torch.float64, device=device)
    none = torch.zeros(p, dtype=torch.int64)
    return Solution(weight, weight.new_full((p, c), torch.nan), bad, bad.clone(), none, (Status.DIVERGED,) * p)
