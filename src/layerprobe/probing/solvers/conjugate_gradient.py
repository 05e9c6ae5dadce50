"""Conjugate gradients for least squares, every L2 value and output at once, with no matrix of features by features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features, placed_blocks
from layerprobe.probing.solvers.moments import CrossMoments, Rows
from layerprobe.probing.solvers.spectrum import Spectrum

_BLOCK = 1 << 22
"""32 MiB in float64."""

_HELD = 1 << 27

_RESTARTS = 5

NOTHING = 1e-15
"""A difference of objectives that float64 cannot tell from none, where a target is one."""

_FLOOR = 1e-6
"""Least curvature that the preconditioner counts on, over the largest: its axes are orthogonal to float32 rounding."""


@dataclass(frozen=True)
class CovarianceProduct:
    """The covariance XᵀX/n - x̄x̄ᵀ as a product that reads the samples once, with the other moments, in float64.

    Attributes:
        features: The samples.
        mean: x̄.
        cross: B = XᵀY/n - x̄ȳᵀ, transposed.
        target_mean: ȳ.
        target_variance: Variance of Y, summed over its columns.
        elements: Elements of the samples turned to float64 at a time.
        counts: What each of some samples counts, of mean 1, in all of these means; None where all count the same.
    """

    features: Features
    mean: Float[Tensor, " d"]
    cross: Float[Tensor, "c d"]
    target_mean: Float[Tensor, " c"]
    target_variance: float
    elements: int
    counts: Rows | None = None

    @classmethod
    def of(
        cls, features: Features, targets: Rows, c: int, elements: int = _BLOCK, counts: Rows | None = None
    ) -> CovarianceProduct:
        """Measure samples in one pass.

        Args:
            features: The samples.
            targets: Gives the rows (k, c) of Y for some samples.
            c: Columns of Y.
            elements: Elements of the samples turned to float64 at a time.
            counts: What each of some samples counts, of mean 1; 1 by default.

        Returns:
            The product.
        """
        found = CrossMoments.of(features, targets, c, elements, counts)
        cross = found.cross.T.contiguous()
        return cls(features, found.feature_mean, cross, found.target_mean, found.target_variance, elements, counts)

    def __call__(self, heads: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
        """Multiply every row with the covariance."""
        total = torch.zeros_like(heads)
        offset = (heads @ self.mean)[:, None]
        for place, part in placed_blocks(self.features, self.elements):
            rows = part.double()
            along = torch.addmm(-offset, heads, rows.T)
            total += (along if self.counts is None else along * self.counts(place)) @ rows
        return total / len(self.features)


def descend(
    product: CovarianceProduct,
    spectrum: Spectrum,
    l2: Float[Tensor, " p"],
    tolerance: float,
    max_iterations: int,
    held: int = _HELD,
) -> tuple[Float[Tensor, "p c d"], Float[Tensor, " p"], Float[Tensor, " p"], Int[Tensor, " p"]]:
    r"""Minimise ½·mean‖Wx + b - y‖² + ½·l2·‖W‖² for every L2 value, reading the samples once an iteration.

    Every output of every value is a system (C + l2) w = B of its own, with its own steps; one pass over the samples
    multiplies the directions of all of them, since the products are what costs. The preconditioner is the inverse of
    V Λ Vᵀ + ρ (I - V Vᵀ) + l2 with the axes of a sample of the rows (Frangella, Tropp & Udell, 2023).

    At a gradient G the objective is tr(G (C + l2)⁻¹ Gᵀ)/2 ≤ ‖G‖²/(2·l2) above its minimum: over the objective, that is
    the gap. For l2 = 0 it is the gradient's norm over that at W = 0. The gradient that conjugate gradients keep drifts
    from the true one, so that is computed again, and the iteration begun anew from there, until it is small enough.

    Args:
        product: The covariance and the right-hand side.
        spectrum: The preconditioner.
        l2: L2 values, float64.
        tolerance: The gap to reach.
        max_iterations: Passes over the samples for each value at most.
        held: Bytes of the heads that are solved for at a time; about seven times that are held.

    Returns:
        Weights, objectives, gaps, and the passes spent on each value.
    """
    c, d = product.cross.shape
    weight = product.cross.new_zeros(len(l2), c, d)
    objective, gap = torch.zeros_like(l2), torch.full_like(l2, torch.inf)
    passes = torch.zeros(len(l2), dtype=torch.int64)
    for some in torch.arange(len(l2)).split(max(1, held // (8 * c * d))):
        found = _Systems(product, _Preconditioner.of(spectrum, l2[some]), l2[some], weight[some])
        found.solve(tolerance, max_iterations)
        weight[some], objective[some], gap[some], passes[some] = found.weight, found.objective, found.gap, found.passes
    return weight, objective, gap, passes


@dataclass(frozen=True)
class _Preconditioner:
    """(V Λ Vᵀ + ρ (I - V Vᵀ) + l2)⁻¹ for some L2 values."""

    vectors: Float[Tensor, "d r"]
    along: Float[Tensor, "p r"]
    beside: Float[Tensor, " p"]

    @classmethod
    def of(cls, spectrum: Spectrum, l2: Tensor) -> _Preconditioner:
        assert spectrum.vectors is not None
        assert spectrum.values is not None
        values = spectrum.values.double().clamp_min(0)
        floor = _FLOOR * float(values[-1]) + torch.finfo(torch.float64).tiny
        along, beside = 1 / (values + l2[:, None]).clamp_min(floor), 1 / (spectrum.rest + l2).clamp_min(floor)
        return cls(spectrum.vectors, along, beside)

    def __call__(self, gradient: Float[Tensor, "p c d"], which: Int[Tensor, " p"]) -> Float[Tensor, "p c d"]:
        beside = self.beside[which, None, None]
        vectors = self.vectors
        turned = (gradient.to(vectors.dtype) @ vectors).double() * (self.along[which, None] - beside)
        return gradient * beside + (turned.to(vectors.dtype) @ vectors.T).double()


class _Systems:
    """The systems of some L2 values, one for each value and output."""

    def __init__(self, product: CovarianceProduct, precondition: _Preconditioner, l2: Tensor, weight: Tensor) -> None:
        self.product, self.precondition, self.l2, self.weight = product, precondition, l2, weight
        self.objective, self.gap = torch.zeros_like(l2), torch.full_like(l2, torch.inf)
        self.passes = torch.zeros(len(l2), dtype=torch.int64, device=l2.device)

    def solve(self, tolerance: float, max_iterations: int) -> None:
        which = torch.arange(len(self.l2), device=self.l2.device)
        for attempt in range(_RESTARTS):
            residual = self._measure(which)
            open_ = (self.gap[which] > tolerance) & (self.passes[which] < max_iterations)
            which, residual = which[open_], residual[open_]
            if not len(which):
                return
            # The kept gradient is a little off: it is asked for more than the true one has to meet.
            self._iterate(which, residual, 0.5 * 0.1**attempt * tolerance, max_iterations)
        self._measure(which)

    def _measure(self, which: Tensor) -> Tensor:
        """Return the residual at the weights, minus the gradient; and what it says of objective and gap."""
        w, b = self.weight[which], self.product.cross
        residual = b - self._multiplied(w, which)
        self.passes[which] += 1
        # tr(W (C + l2) Wᵀ) = tr(W (B - R)ᵀ)
        fitted = (w * (b + residual)).sum((1, 2))
        self.objective[which] = 0.5 * (self.product.target_variance - fitted).clamp_min(0)
        self.gap[which] = self._gap(residual.square().sum((1, 2)), which)
        return residual

    def _gap(self, squares: Tensor, which: Tensor) -> Tensor:
        l2, first = self.l2[which], self.product.cross.norm().clamp_min(torch.finfo(torch.float64).tiny)
        excess = (squares / (2 * l2) - NOTHING).clamp_min(0)
        relative = excess / self.objective[which].clamp_min(NOTHING)
        return torch.where(l2 > 0, relative, squares.sqrt() / first)

    def _multiplied(self, heads: Tensor, which: Tensor) -> Tensor:
        flat = heads.flatten(0, 1)
        return self.product(flat).view_as(heads) + self.l2[which, None, None] * heads

    def _iterate(self, which: Tensor, residual: Tensor, target: float, max_iterations: int) -> None:
        z = self.precondition(residual, which)
        direction, inner = z, (residual * z).sum(2, keepdim=True)
        while len(which):
            image = self._multiplied(direction, which)
            self.passes[which] += 1
            curvature = (direction * image).sum(2, keepdim=True)
            step = torch.where(curvature > 0, inner / curvature, 0.0)
            self.weight[which] += step * direction
            residual = residual - step * image
            squares = residual.square().sum((1, 2))
            on = (self._gap(squares, which) > target) & (self.passes[which] < max_iterations)
            which, residual, direction, inner = which[on], residual[on], direction[on], inner[on]
            z = self.precondition(residual, which)
            new = (residual * z).sum(2, keepdim=True)
            direction = z + torch.where(inner > 0, new / inner, 0.0) * direction
            inner = new
