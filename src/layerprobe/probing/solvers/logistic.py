"""Multinomial logistic regression, the whole L2 path to its optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.solvers.lbfgs import Minimum, minimise
from layerprobe.probing.solvers.softmax import Evaluation, SoftmaxObjective, basis
from layerprobe.probing.solvers.solution import Solution, Status
from layerprobe.probing.solvers.solver import AbstractSolver
from layerprobe.probing.solvers.spectrum import Spectrum
from layerprobe.probing.solvers.threads import threads_for

_ABSENT = -60.0
"""Score of a class without a training sample, below the lowest bias: its probability is beneath rounding."""


@dataclass(frozen=True)
class Logistic(AbstractSolver):
    r"""Mean cross-entropy + ½·l2·‖W‖²_F, bias unpenalised, minimised for every L2 value at once.

    **Method.** All values stand side by side in one matrix product for each evaluation and leave when they have
    converged. Steps are L-BFGS with the initial inverse Hessian (A ⊗ Λ + l2)⁻¹: the Hessian of the loss is the mean of
    (diag(p_i) - p_i p_iᵀ) ⊗ x_i x_iᵀ, and replacing the mean of products by the product of means gives A ⊗ XᵀX/n
    with A the mean of diag(p_i) - p_i p_iᵀ (Martens & Grosse, 2015, make the same approximation). XᵀX/n = V Λ Vᵀ is
    decomposed once for all values, all steps and all sets of labels; A is c × c and follows the fit, which matters on
    nearly separable data, where it shrinks by orders of magnitude.

    **Certificate.** Write the loss of a sample as max_q ⟨q - y, z⟩ + H(q) over distributions q. For q_i = softmax(z_i)
    at the returned head, the dual value (the minimum over W, b at fixed q) is finite where Σ_i (q_i - y_i) = 0, that is
    where the bias's gradient is zero, and then
        objective - dual = ‖∂f/∂W‖² / (2·l2),
    an upper bound on the distance to the optimum. So the bias is first brought to its optimum for these weights by
    Newton steps in float64 (c unknowns), then the bound is evaluated in float64. What is left of the bias's gradient
    adds g_bᵀ A⁻¹ g_b, twice Newton's estimate of what it is worth. `gap` is the bound over the objective. For l2 = 0
    there is no such bound: `gap` is then the gradient's norm over that at W = 0, and on data that the head separates
    there is no optimum, which is `stalled`.

    float32 products are used while they serve; a value at which they stop short of the certificate is refined in
    float64, unless it was the evaluations that ran out.

    Attributes:
        tolerance: A value has converged when its gap is at most this.
        max_iterations: Evaluations of the path at most, in each precision.
        memory: Pairs that L-BFGS keeps.
    """

    tolerance: float = 1e-5
    max_iterations: int = 500
    memory: int = 20
    name: ClassVar[str] = "logistic"

    def losses(self, scores: Float[Tensor, "n c"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Cross-entropy."""
        return F.cross_entropy(scores, targets, reduction="none")

    def solve(
        self,
        features: Float[Tensor, "n d"],
        targets: Int[Tensor, " n"],
        n_classes: int,
        l2: Float[Tensor, " p"],
        spectrum: Spectrum | None = None,
    ) -> Solution:
        """See `AbstractSolver.solve`."""
        with threads_for(4.0 * features.numel() * n_classes * len(l2)):
            return self._solve(features, targets, n_classes, l2, spectrum)

    def _solve(
        self, features: Tensor, targets: Tensor, n_classes: int, l2: Tensor, spectrum: Spectrum | None
    ) -> Solution:
        present, places = targets.unique(return_inverse=True)
        if len(present) < n_classes:
            return self._with_absent(features, places, present, n_classes, l2, spectrum)
        spectrum = spectrum or Spectrum.of(features)
        p, d, device = len(l2), features.shape[1], features.device
        l2 = l2.to(device, torch.float64)
        if n_classes == 1 or not torch.isfinite(spectrum.values).all():
            return _trivial(p, n_classes, features, finite=n_classes == 1)
        inner = features if spectrum.coordinates is None else spectrum.coordinates.to(features.dtype)
        # With the samples in their own principal axes, the preconditioner is diagonal.
        axes = spectrum.vectors if spectrum.coordinates is None else None
        heads = torch.zeros(p, n_classes - 1, inner.shape[1] + 1, dtype=features.dtype, device=device)
        problem = _Problem(inner, targets, n_classes, l2, spectrum.values, axes, self)
        found = problem.descend(heads, features.dtype, torch.arange(p, device=device))
        iterations = found.iterations
        heads, final = problem.settle_bias(found.heads.double())
        gap = problem.gap(final, torch.arange(p, device=device))
        rest = ((gap > self.tolerance) & ~found.exhausted).nonzero().flatten()
        if features.dtype != torch.float64 and len(rest):
            exact = inner if spectrum.coordinates is None else spectrum.coordinates
            problem = _Problem(exact, targets, n_classes, l2, spectrum.values, axes, self)
            refined = problem.descend(heads[rest], torch.float64, rest)
            heads[rest] = refined.heads
            iterations[rest.cpu()] += refined.iterations
            heads, final = problem.settle_bias(heads)
            gap = problem.gap(final, torch.arange(p, device=device))
        full = basis(n_classes, torch.float64, device) @ heads
        weight = full[:, :, :-1]
        if spectrum.coordinates is not None:
            assert spectrum.vectors is not None
            weight = weight @ spectrum.vectors.double().T
        return Solution(
            weight=weight.reshape(p, n_classes, d).to(features.dtype),
            bias=full[:, :, -1].to(features.dtype),
            objective=final.objective,
            gap=gap,
            iterations=iterations,
            status=tuple(self._status(final, gap, l2, i) for i in range(p)),
        )

    def _status(self, final: Evaluation, gap: Tensor, l2: Tensor, i: int) -> Status:
        if not torch.isfinite(final.objective[i]):
            return Status.DIVERGED
        has_optimum = l2[i] > 0 or not final.separated[i]
        return Status.CONVERGED if has_optimum and gap[i] <= self.tolerance else Status.STALLED

    def _with_absent(
        self,
        features: Tensor,
        places: Tensor,
        present: Tensor,
        n_classes: int,
        l2: Tensor,
        spectrum: Spectrum | None,
    ) -> Solution:
        """Classes without a training sample have weight 0 and, at the optimum, a bias of -∞: here a very low one."""
        found = self._solve(features, places, len(present), l2, spectrum)
        p, _, d = found.weight.shape
        weight = found.weight.new_zeros(p, n_classes, d)
        lowest = found.bias.amin(1, keepdim=True)
        bias = (lowest + _ABSENT).expand(p, n_classes).clone()
        weight[:, present], bias[:, present] = found.weight, found.bias
        return Solution(weight, bias, found.objective, found.gap, found.iterations, found.status)


@dataclass(frozen=True)
class _Problem:
    """One path: its samples, their principal axes, and the L2 values."""

    features: Float[Tensor, "n d"]
    targets: Int[Tensor, " n"]
    n_classes: int
    l2: Float[Tensor, " p"]
    values: Float[Tensor, " r"]
    axes: Float[Tensor, "d r"] | None
    solver: Logistic

    def descend(self, start: Float[Tensor, "q m e"], dtype: torch.dtype, numbers: Int[Tensor, " q"]) -> Minimum:
        """Minimise the values with these numbers, in one precision."""
        objective = SoftmaxObjective(self.features, self.targets, self.n_classes, dtype)
        values = self.values.to(dtype)
        axes = None if self.axes is None else self.axes.to(dtype)

        def evaluate(heads: Tensor, k: Tensor, with_curvature: bool) -> Evaluation:
            return objective(heads, self.l2[numbers[k]], with_curvature)

        def precondition(v: Tensor, curvature: Tensor, which: Tensor) -> Tensor:
            a, turn = torch.linalg.eigh(curvature)
            a = a.clamp(min=1e-9 * a[:, -1:].clamp(min=1e-30))[:, :, None]
            x = turn.mT @ v
            weight = x[:, :, :-1] if axes is None else x[:, :, :-1] @ axes
            weight = weight / (a * (values + 1e-6 * values[-1]) + self.l2[numbers[which]].to(dtype).view(-1, 1, 1))
            weight = weight if axes is None else weight @ axes.T
            return turn @ torch.cat([weight, x[:, :, -1:] / a], 2)

        return minimise(
            start.to(dtype),
            evaluate,
            precondition,
            lambda e, k: self.gap(e, numbers[k]),
            tolerance=0.5 * self.solver.tolerance,
            max_iterations=self.solver.max_iterations,
            memory=self.solver.memory,
            # The curvature costs p·c²·n, and its decomposition c³: nothing for few classes, much for a thousand.
            refresh=lambda i: self.n_classes <= 64 or i in (1, 2, 4, 8) or i % 16 == 0,
        )

    def settle_bias(self, heads: Float[Tensor, "p m e"]) -> tuple[Float[Tensor, "p m e"], Evaluation]:
        """Bring the bias to its optimum for these weights, by Newton steps in float64, and evaluate there."""
        objective = SoftmaxObjective(self.features, self.targets, self.n_classes, torch.float64)
        final = objective(heads, self.l2, True)
        for _ in range(3):
            assert final.curvature is not None
            slope = final.gradient[:, :, -1]
            worth = _worth(slope, final.curvature)
            if not (worth > 1e-12 * final.objective).any():
                break
            step = _solve(slope, final.curvature)
            moved = heads.clone()
            moved[:, :, -1] -= step
            new = objective(moved, self.l2, True)
            better = (new.objective <= final.objective).view(-1, 1, 1)
            if not better.all():
                heads = torch.where(better, moved, heads)
                final = objective(heads, self.l2, True)
                break
            heads, final = moved, new
        return heads, final

    def gap(self, evaluation: Evaluation, which: Int[Tensor, " q"]) -> Float[Tensor, " q"]:
        """The certificate; without the curvature, only its first term."""
        g, l2 = evaluation.gradient.double(), self.l2[which]
        bound = g[:, :, :-1].square().sum((1, 2)) / (2 * l2)
        if evaluation.curvature is not None:
            bound = bound + _worth(g[:, :, -1], evaluation.curvature.double())
        relative = bound / evaluation.objective.clamp(min=torch.finfo(torch.float64).tiny)
        if (l2 > 0).all():
            return relative
        return torch.where(l2 > 0, relative, g.square().sum((1, 2)).sqrt() / self._first_norm())

    def _first_norm(self) -> Tensor:
        """The gradient's norm at zero weights and the best bias, where p are the shares of the classes."""
        onehot = F.one_hot(self.targets, self.n_classes).double()
        residual = onehot.mean(0) - onehot
        total = torch.zeros(self.n_classes, self.features.shape[1], dtype=torch.float64, device=residual.device)
        for start in range(0, len(residual), 4096):
            total += residual[start : start + 4096].T @ self.features[start : start + 4096].double()
        return (total / len(residual)).norm().clamp(min=torch.finfo(torch.float64).tiny)


def _solve(slope: Float[Tensor, "p m"], curvature: Float[Tensor, "p m m"]) -> Float[Tensor, "p m"]:
    a, turn = torch.linalg.eigh(curvature)
    a = a.clamp(min=1e-12 * a[:, -1:].clamp(min=1e-300))
    return (turn @ ((turn.mT @ slope[:, :, None]) / a[:, :, None]))[:, :, 0]


def _worth(slope: Float[Tensor, "p m"], curvature: Float[Tensor, "p m m"]) -> Float[Tensor, " p"]:
    return (slope * _solve(slope, curvature)).sum(1).abs()


def _trivial(p: int, c: int, features: Tensor, *, finite: bool) -> Solution:
    """One class: nothing to learn. Features that are not finite: nothing can be."""
    value = 0.0 if finite else torch.nan
    status = Status.CONVERGED if finite else Status.DIVERGED
    fill = torch.full((p,), value, dtype=torch.float64, device=features.device)
    weight = features.new_full((p, c, features.shape[1]), value)
    return Solution(weight, weight.new_full((p, c), value), fill, fill.clone(), torch.zeros(p).long(), (status,) * p)
