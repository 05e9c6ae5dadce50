"""Ridge regression on one-hot targets or on numbers, every L2 value from one decomposition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.matrix import Features, blocks
from layerprobe.probing.solvers.solution import Solution, Status
from layerprobe.probing.solvers.solver import AbstractSolver
from layerprobe.probing.solvers.spectrum import Spectrum

_BLOCK = 1 << 22

_NOTHING = 1e-15
"""A difference of objectives that float64 cannot tell from none, where a target is one."""


@dataclass(frozen=True)
class Ridge(AbstractSolver):
    """½·mean‖Wx + b - onehot(y)‖² + ½·l2·‖W‖²_F, bias unpenalised: the linear regression probe.

    With x̄ and ȳ the means, C = XᵀX/n - x̄x̄ᵀ = V Λ Vᵀ and B = XᵀY/n - x̄ȳᵀ, the gradient vanishes at
    W = V (Λ + l2)⁻¹ Vᵀ B and b = ȳ - Wx̄: one decomposition serves every value. Where d > n the same is done in the
    span of the samples (see `Spectrum`). Products of float32 numbers are exact in float64, and so is their sum to its
    rounding: the answer has float64's accuracy whatever the features' precision. For l2 = 0, eigenvalues beneath
    rounding are left out, which gives the solution of smallest norm.

    The objective is quadratic: at a gradient G it lies ½·tr(G (C + l2)⁻¹ Gᵀ) above its minimum. That over the objective
    is the gap, with no bound in between.

    Attributes:
        tolerance: A value has converged when its gap is at most this.
    """

    tolerance: float = 1e-5
    name: ClassVar[str] = "ridge"

    def losses(self, scores: Float[Tensor, "n c"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Half the squared distance to the one-hot target."""
        return 0.5 * (scores - F.one_hot(targets, scores.shape[1])).square().sum(1)

    def solve(
        self,
        features: Features,
        targets: Int[Tensor, " n"],
        n_classes: int,
        l2: Float[Tensor, " p"],
        spectrum: Spectrum | None = None,
    ) -> Solution:
        """See `AbstractSolver.solve`."""
        return self._solve(features, lambda rows: F.one_hot(targets[rows], n_classes), n_classes, l2, spectrum)

    def regress(
        self,
        features: Features,
        values: Float[Tensor, "n c"],
        l2: Float[Tensor, " p"],
        spectrum: Spectrum | None = None,
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
        return self._solve(features, lambda rows: values[rows], values.shape[1], l2, spectrum)

    def _solve(
        self, features: Features, targets: Callable[[slice], Tensor], c: int, l2: Tensor, spectrum: Spectrum | None
    ) -> Solution:
        n, d = features.shape
        l2 = l2.to(features.device, torch.float64)
        if d > n:
            spectrum = spectrum or Spectrum.of(features)
        span = None if spectrum is None else spectrum.span
        inner = features if span is None else span.coordinates
        moments = _Moments.of(inner, targets, c)
        if not torch.isfinite(moments.covariance).all():
            bad = torch.full((len(l2),), torch.nan, dtype=torch.float64, device=features.device)
            weight = torch.full((len(l2), c, d), torch.nan, dtype=features.dtype, device=features.device)
            none = torch.zeros(len(l2), dtype=torch.int64)
            return Solution(weight, weight[:, :, 0].clone(), bad, bad.clone(), none, (Status.DIVERGED,) * len(l2))
        values, vectors = torch.linalg.eigh(moments.covariance)
        floor = 1e-13 * values[-1].clamp(min=torch.finfo(torch.float64).tiny)
        inverse = torch.where((values > floor) | (l2[:, None] > 0), 1 / (values.clamp(min=0) + l2[:, None]), 0.0)
        turned = vectors.T @ moments.cross
        weight = (vectors @ (inverse[:, :, None] * turned)).mT
        bias = moments.target_mean - weight @ moments.feature_mean
        objective, gradient = moments.evaluate(weight, l2)
        excess = 0.5 * ((gradient @ vectors).square() * inverse[:, None, :]).sum((1, 2))
        gap = (excess - _NOTHING).clamp_min(0) / objective.clamp_min(_NOTHING)
        status = tuple(Status.CONVERGED if value <= self.tolerance else Status.STALLED for value in gap.tolist())
        if span is not None:
            weight = span.back(weight, features)
        return Solution(
            weight.to(features.dtype),
            bias.to(features.dtype),
            objective,
            gap,
            torch.ones(len(l2), dtype=torch.int64),
            status,
        )


@dataclass(frozen=True)
class _Moments:
    """All that least squares needs to know of the data."""

    covariance: Float[Tensor, "d d"]
    cross: Float[Tensor, "d c"]
    feature_mean: Float[Tensor, " d"]
    target_mean: Float[Tensor, " c"]
    target_variance: float

    @classmethod
    def of(cls, features: Features, targets: Callable[[slice], Tensor], c: int) -> _Moments:
        n, d = features.shape
        zeros = partial(torch.zeros, dtype=torch.float64, device=features.device)
        gram, cross = zeros(d, d), zeros(d, c)
        x_sum, y_sum, y_square = zeros(d), zeros(c), zeros(c)
        start = 0
        for block in blocks(features, _BLOCK):
            x = block.double()
            y = targets(slice(start, start + len(x))).double()
            start += len(x)
            gram += x.T @ x
            cross += x.T @ y
            x_sum += x.sum(0)
            y_sum += y.sum(0)
            y_square += y.square().sum(0)
        x_mean, y_mean = x_sum / n, y_sum / n
        return cls(
            gram / n - torch.outer(x_mean, x_mean),
            cross / n - torch.outer(x_mean, y_mean),
            x_mean,
            y_mean,
            float((y_square / n - y_mean.square()).sum()),
        )

    def evaluate(
        self, weight: Float[Tensor, "p c d"], l2: Float[Tensor, " p"]
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, "p c d"]]:
        """Objective and its gradient at weights whose bias is optimal.

        mean‖Wx + b - y‖² = tr(W C Wᵀ) - 2 tr(W B) + Var(y), with Var(y) summed over the targets.
        """
        fitted = weight @ self.covariance
        penalty = l2 * weight.square().sum((1, 2))
        objective = 0.5 * (
            (fitted * weight).sum((1, 2)) - 2 * (weight.mT * self.cross).sum((1, 2)) + self.target_variance + penalty
        )
        return objective.clamp_min(0), fitted - self.cross.T + l2.view(-1, 1, 1) * weight
