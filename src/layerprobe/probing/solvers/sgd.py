"""Stochastic gradients for data that never fits: every L2 value and learning rate at once, no sample kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.solvers.gram import LARGEST, Spectrum
from layerprobe.probing.solvers.operation_counts import Operations
from layerprobe.probing.solvers.softmax_objective import log_odds
from layerprobe.probing.solvers.solution import Solution, Status
from layerprobe.probing.solvers.solver import Stop
from layerprobe.probing.solvers.streaming_solver import AbstractStream, AbstractStreamingSolver

_BATCH = 256


@dataclass(frozen=True)
class SGD(AbstractStreamingSolver):
    r"""Mean cross-entropy + ½·l2·‖W‖²_F by stochastic gradients, on standardised features.

    The first pass measures means, variances and, up to `LARGEST` features, the Gram matrix XᵀX/n = V Λ Vᵀ. In the
    others, heads of every L2 value and learning rate take a step on every batch; their scores are one matrix product
    and their gradients another. The samples are turned into the axes V, where the curvature is at most ½Λ + l2, since
    the softmax's own is at most ½ (Böhning, 1992): a step is divided by that, which makes learning rates free of scale.
    The rate falls to zero along a cosine (Loshchilov & Hutter, 2017), as in the linear evaluation of DINOv2 (Oquab et
    al., 2023). For each L2 value the rate whose objective over the last pass is lowest is kept: it is a matter of
    optimisation, which train decides, not of selection. The penalty is taken implicitly,
    w ← (w - η g)/(1 + η·l2): a strong one is never unstable.

    There is no certificate: the status is `stalled`, and the gap unknown. Use it where `Logistic` cannot have the
    features, and compare the two on a part of the data.

    Attributes:
        epochs: Passes after the first.
        learning_rates: Rates tried side by side.
    """

    epochs: int = 10
    learning_rates: Sequence[float] = (0.1, 0.3, 1.0, 2.0)
    name: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        """Refuse a fit without a step.

        Raises:
            ValueError: Naming the field.
        """
        if self.epochs < 1:
            raise ValueError(f"`epochs` of the solver sgd is {self.epochs}. Give at least 1.")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"`learning_rates` of the solver sgd is {self.learning_rates}. Give values above 0.")

    @property
    def n_passes(self) -> int:
        """One to standardise, and the epochs."""
        return 1 + self.epochs

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
        """See `AbstractSolver.solve`; samples are taken in the order that they have."""
        return self.run(features, targets, n_classes, l2, _BATCH)

    def operations(self, n: int, d: int, c: int, p: int) -> Operations:
        """See `AbstractSolver.operations`."""
        whole, columns = d <= LARGEST, c * p * len(self.learning_rates)
        turned = n * d * d if whole else 0
        steps = -(-n // _BATCH)
        epoch = Operations(
            steps=steps,
            thin=n * d * columns,
            scores=n * columns,
            square=turned,
            elements=n * d + steps * columns * d,
            reads=n * d,
        )
        first = Operations(square_double=turned, eigen_double=d**3 if whole else 0, elements=n * d, reads=n * d)
        return first + epoch * self.epochs

    def stream(self, n_features: int, l2: Float[Tensor, " p"], device: torch.device) -> AbstractStream:
        """See `AbstractStreamingSolver.stream`."""
        return _Stream(self, n_features, l2.to(device, torch.float32), device)


class _Stream(AbstractStream):
    def __init__(self, solver: SGD, n_features: int, l2: Tensor, device: torch.device) -> None:
        self.solver, self.d, self.device = solver, n_features, device
        rates = torch.tensor(list(solver.learning_rates), device=device)
        self.l2, self.rate = l2.repeat_interleave(len(rates)), rates.repeat(len(l2))
        self.n = self.batches = self.step = self.epoch = 0
        self.origin: Tensor | None = None
        self.sum = torch.zeros(n_features, dtype=torch.float64, device=device)
        whole = n_features <= LARGEST
        size = (n_features, n_features) if whole else (n_features,)
        self.square = torch.zeros(size, dtype=torch.float64, device=device)
        self.axes: Tensor | None = None
        self.seen: set[int] = set()
        self.classes = torch.empty(0, dtype=torch.int64)
        self.loss = torch.zeros(len(self.l2), dtype=torch.float64, device=device)
        self.dtype = torch.float32

    def see(self, features: Float[Tensor, "b d"], targets: Int[Tensor, " b"]) -> None:
        """See `AbstractStream.see`."""
        if self.epoch == 0:
            self._measure(features, targets)
        else:
            x = self.standardiser.apply_(features.clone()).float()
            self._step(x if self.axes is None else x @ self.axes, targets)

    def end_pass(self) -> None:
        """See `AbstractStream.end_pass`."""
        if self.epoch == 0:
            self._standardise()
            self.classes = torch.tensor(sorted(self.seen))
            heads, c = len(self.l2), len(self.classes)
            self.weight = torch.zeros(heads, c, self.d, device=self.device)
            self.bias = torch.zeros(heads, c, device=self.device)
        self.epoch += 1
        if self.epoch < self.solver.n_passes:
            self.loss.zero_()

    def finish(self, classes: Int[Tensor, " c"]) -> tuple[Solution, Standardiser]:
        """See `AbstractStream.finish`; the objective is the mean over the last pass."""
        objective = self.loss / self.n + 0.5 * self.l2.double() * self.weight.double().square().sum((1, 2))
        objective = objective.nan_to_num(torch.inf).view(-1, len(self.solver.learning_rates))
        best = objective.argmin(1)
        p, rates = objective.shape
        chosen = torch.arange(p, device=self.device) * rates + best
        lowest = objective.amin(1)
        # A class that was never seen is never answered.
        weight = self.weight.new_zeros(p, len(classes), self.d)
        bias = self.bias.new_full((p, len(classes)), -60.0)
        places = torch.searchsorted(classes, self.classes)
        found = self.weight[chosen]
        weight[:, places] = found if self.axes is None else found @ self.axes.T
        bias[:, places] = self.bias[chosen]
        return (
            Solution(
                weight.to(self.dtype),
                bias.to(self.dtype),
                lowest,
                torch.full_like(lowest, torch.nan),
                torch.full((p,), self.step),
                tuple(Status.STALLED if math.isfinite(value) else Status.DIVERGED for value in lowest.tolist()),
            ),
            self.standardiser,
        )

    def _measure(self, features: Tensor, targets: Tensor) -> None:
        x = features.double()
        if self.origin is None:
            self.origin, self.dtype = x.mean(0), features.dtype
        x = x - self.origin
        self.n += len(x)
        self.batches += 1
        self.sum += x.sum(0)
        self.square += x.T @ x if self.square.ndim == 2 else x.square().sum(0)
        self.seen.update(targets.unique().tolist())

    def _standardise(self) -> None:
        assert self.origin is not None
        mean = self.sum / self.n
        second = self.square / self.n
        variance = (second.diagonal() if second.ndim == 2 else second) - mean.square()
        self.standardiser = Standardiser.of(mean + self.origin, variance, self.dtype)
        values = torch.ones(self.d, device=self.device)
        if second.ndim == 2:
            scale = torch.where(self.standardiser.constant, 0.0, 1 / self.standardiser.scale.double())
            covariance = (second - torch.outer(mean, mean)) * torch.outer(scale, scale)
            spectrum, axes = torch.linalg.eigh(covariance.nan_to_num())
            values, self.axes = spectrum.clamp_min(0).float(), axes.float()
        self.curvature = 0.5 * values + self.l2[:, None].clamp_min(1e-6 * float(values.max()) + 1e-12)

    def _step(self, x: Float[Tensor, "b d"], targets: Int[Tensor, " b"]) -> None:
        """One step of every head: scores (b, h·c) and gradients (h·c, d) in one product each."""
        heads, c, d = self.weight.shape
        truth = torch.searchsorted(self.classes, targets.cpu()).to(self.device)
        scores = torch.addmm(self.bias.view(-1), x, self.weight.view(-1, d).T).view(len(x), heads, c)
        log_probability = scores.log_softmax(2)
        own = truth[:, None, None].expand(-1, heads, 1)
        self.loss -= log_probability.gather(2, own).sum((0, 2), dtype=torch.float64)
        residual = log_probability.exp()
        residual.scatter_add_(2, own, residual.new_full((len(x), heads, 1), -1.0))
        residual = residual.view(len(x), heads * c) / len(x)
        total = self.batches * self.solver.epochs
        rate = self.rate * 0.5 * (1 + math.cos(math.pi * self.step / total))
        pace = rate[:, None] / self.curvature
        self.weight.sub_(pace[:, None] * (residual.T @ x).view_as(self.weight)).div_(
            (1 + pace * self.l2[:, None])[:, None]
        )
        self.bias.sub_(2 * rate[:, None] * residual.sum(0).view_as(self.bias))
        self.step += 1
