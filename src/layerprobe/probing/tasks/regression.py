"""Regression: one number for each sample, or several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from layerprobe.formatting import described
from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.heads import Heads
from layerprobe.probing.metrics.intervals import unexplained_difference, unexplained_interval
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Solution
from layerprobe.probing.solvers.solver import AbstractSolver
from layerprobe.probing.targets import Labels
from layerprobe.probing.tasks.task import AbstractTask, Measured, PathFit
from layerprobe.types import Split


@final
@dataclass(frozen=True)
class Regression(AbstractTask):
    r"""Real numbers, standardised on train; the error is the fraction of variance unexplained, 1 - R².

    For the value j of each sample it is \(\sum_i (\hat y_{ij} - y_{ij})^2 / \sum_i (y_{ij} - \bar y_j)^2\), with
    the mean of the split itself; several values count alike. 0 is perfect, 1 is no better than the mean, and it can be
    larger. Its interval is `unexplained_interval`. The loss is half the squared distance in units of the
    training targets' standard deviation.

    A value that is constant on a split has no R² there and is left out of it, with a message. Constant is what is no
    more than rounding apart, in the precision that it came in.
    """

    name: ClassVar[str] = "regression"

    def check(self, solver: AbstractSolver) -> None:
        """Take least squares alone."""
        if not isinstance(solver, Ridge):
            raise ValueError(f"Regression cannot be fitted by the solver {solver.name!r}. Choose solver=[ridge].")

    def read(self, targets: Any, split: Split) -> Float[Tensor, "n c"]:
        """See `AbstractTask.read`."""
        found = described(targets)
        real = isinstance(targets, Tensor) and not targets.is_complex()
        if real and targets.ndim in (1, 2) and targets.numel():
            # Single precision stays, since it says what its rounding can have done to a constant.
            values = targets.detach().to("cpu", targets.dtype if targets.dtype == torch.float32 else torch.float64)
            if values.isfinite().all():
                return values.reshape(len(values), -1)
            found = "a value that is not finite"
        raise TypeError(
            f"Regression needs one finite number or a row of numbers for each sample, found {found} in the {split} "
            "split. Choose such targets with `targets`, or another task: task=classification, task=multi_label."
        )

    def labels(self, targets: Mapping[Split, Shaped[Tensor, "n ..."]]) -> Labels:
        """See `AbstractTask.labels`; values that are constant on train, or all that are on validation, are refused."""
        level = {split: _level(values) for split, values in targets.items()}
        for split, values in level.items():
            constant = ~_varies(values)
            if (split == "train" and constant.any()) or (split == "val" and constant.all()):
                which = f" (column {constant.nonzero()[0].item()} of {len(constant)})" if len(constant) > 1 else ""
                raise ValueError(
                    f"A regression target has one value only on the {split} split{which}, and R² needs a variance. "
                    "Give more samples, or another property as `targets`."
                )
        centre, scale = level["train"].mean(0), level["train"].std(0, correction=0)
        return Labels(
            torch.arange(len(scale)),
            {split: (values - centre) / scale for split, values in level.items()},
            {"target_mean": centre, "target_scale": scale},
        )

    def n_classes(self, labels: Labels) -> int:
        """See `AbstractTask.n_classes`."""
        return 0

    def fits(self, outputs: int) -> tuple[int, int]:
        """See `AbstractTask.fits`."""
        return 1, outputs

    def fit(self, solver: AbstractSolver, path: PathFit, targets: Shaped[Tensor, "n ..."], labels: Labels) -> Solution:
        """See `AbstractTask.fit`."""
        self.check(solver)
        assert isinstance(solver, Ridge)
        return solver.regress(path.features, targets, path.l2, path.spectrum)

    def evaluate(
        self, heads: Heads, features: Features, targets: Shaped[Tensor, "n ..."], solver: AbstractSolver
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """See `AbstractTask.evaluate`."""
        squares = torch.zeros(heads.bias.shape, dtype=torch.float64, device=features.device)
        for rows, scores in heads.blocks(features):
            squares += (scores.double() - targets[rows, None]).square().sum(0)
        mean_squares = squares / len(targets)
        unexplained = mean_squares / targets.var(0, correction=0)
        return unexplained[:, _varies(targets)].mean(1), 0.5 * mean_squares.sum(1)

    def measure(
        self, heads: Heads, features: Features, targets: Shaped[Tensor, "n ..."], solver: AbstractSolver
    ) -> Measured:
        """See `AbstractTask.measure`."""
        error, loss = self.evaluate(heads, features, targets, solver)
        low, high = self.interval(heads.scores(features), targets)
        varies, message = _varies(targets), ""
        if not varies.all():
            left_out = f"{int((~varies).sum())} of {len(varies)} values are" if len(varies) > 1 else "the target is"
            message = f"{left_out} constant on test, where R² has no meaning; give more test samples, or see test_loss"
        return Measured(
            error=float(error[0]),
            low=low,
            high=high,
            loss=float(loss[0]),
            correct=torch.empty(0, dtype=torch.bool),
            r2=1 - float(error[0]),
            message=message,
        )

    def predict(self, scores: Float[Tensor, "n c"], extra: Mapping[str, Tensor]) -> Float[Tensor, "n c"]:
        """See `AbstractTask.predict`."""
        return scores.double() * extra["target_scale"] + extra["target_mean"]

    def constant_error(self, labels: Labels) -> float:
        """Return the test error of always answering the training mean."""
        test = labels.splits["test"]
        return float((test.square().mean(0) / test.var(0, correction=0))[_varies(test)].mean())

    def losses(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """See `AbstractTask.losses`: half the squared distance."""
        return (scores - targets.to(scores.dtype)).square().sum(1) / 2

    def slopes(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n c"]:
        """See `AbstractTask.slopes`."""
        return scores - targets.to(scores.dtype)

    def vote(self, neighbours: Shaped[Tensor, "n k ..."], outputs: int) -> Float[Tensor, "n c"]:
        """See `AbstractTask.vote`: the neighbours' mean."""
        return neighbours.mean(1)

    def error(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> float:
        """See `AbstractTask.error`."""
        varies = _varies(targets)
        unexplained = (scores.double() - targets).square().mean(0) / targets.var(0, correction=0)
        return float(unexplained[varies].mean())

    def interval(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> tuple[float, float]:
        """See `AbstractTask.interval`."""
        varies = _varies(targets)
        if not varies.any():
            return math.nan, math.nan
        return unexplained_interval(scores.double()[:, varies], targets[:, varies])

    def difference(
        self, scores: Float[Tensor, "n c"], other: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]
    ) -> tuple[float, float, float]:
        """See `AbstractTask.difference`; `unexplained_difference` has the interval."""
        varies = _varies(targets)
        return unexplained_difference(scores[:, varies].double(), other[:, varies].double(), targets[:, varies])


def _level(values: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """Return values in float64, a column levelled where its values are no more than two roundings apart.

    A constant that was computed comes in neighbouring numbers; its variance is that of rounding, and not 0.
    """
    wide, eps = values.double(), torch.finfo(values.dtype).eps
    spread, size = wide.amax(0) - wide.amin(0), wide.abs().amax(0)
    return torch.where(spread > 2 * eps * size, wide, wide[:1])


def _varies(values: Float[Tensor, "n c"]) -> Bool[Tensor, " c"]:
    """Tell which columns hold more than one value."""
    return values.amax(0) > values.amin(0)
