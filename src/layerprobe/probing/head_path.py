"""Path of a head: its L2 values, fitted together, and which of them validation likes best."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from layerprobe.probing.features.reducers import FeatureWay
from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.heads import Heads
from layerprobe.probing.solvers.solution import Solution, Status
from layerprobe.probing.solvers.solver import AbstractSolver


@dataclass(frozen=True, eq=False)
class HeadPath:
    """The L2 values of one head, fitted together, with what validation says of each.

    Attributes:
        way: How its features were made.
        solver: What fitted it.
        standardiser: Training statistics of its features.
        l2: The L2 values.
        solution: The heads, how each fit ended, and how far each is from its optimum at most.
        validation: Error and loss of each head on validation; None where there is no validation split.
        selection: What the best head has the lowest of: `error`, `loss`, or another of the task's figures.
        figures: That other figure of each head on validation; empty where it is none.
        train_error: Error of its best head on train; NaN where that is not known.
        refitted: Whether the fit is to train and validation together.
    """

    way: FeatureWay
    solver: AbstractSolver
    standardiser: Standardiser
    l2: tuple[float, ...]
    solution: Solution
    validation: tuple[tuple[float, ...], tuple[float, ...]] | None
    selection: str = "error"
    figures: tuple[float, ...] = ()
    train_error: float = math.nan
    refitted: bool = False

    @property
    def heads(self) -> Heads:
        """The heads, frozen."""
        return Heads(self.solution.weight, self.solution.bias)

    @property
    def val_error(self) -> tuple[float, ...]:
        """Validation error of each head; NaN where it diverged or was skipped, and without a validation split."""
        return (math.nan,) * len(self.l2) if self.validation is None else self._of_fitted(self.validation[0])

    @property
    def val_loss(self) -> tuple[float, ...]:
        """Mean validation loss of each head; NaN without a validation split."""
        return (math.nan,) * len(self.l2) if self.validation is None else self.validation[1]

    @property
    def best(self) -> int | None:
        """Place of the best head: lowest error, lower loss, larger l2, then first; None where no head has an error.

        Another `selection` takes the place of the error. Error and loss are those on validation; without a validation
        split, leave-one-out figures on train; without these either, there is one head and nothing to choose.
        """
        ranks = self._ranks
        return min(ranks, key=lambda i: ranks[i]) if ranks else None

    def around(self, i: int) -> tuple[int, ...]:
        """Find the places of a value and of those next to it, stronger and weaker, among all that were fitted."""
        fitted = (l2 for l2, status in zip(self.l2, self.solution.status, strict=True) if status is not Status.SKIPPED)
        values = sorted(set(fitted))
        at = values.index(self.l2[i])
        near = values[max(at - 1, 0) : at + 2]
        return tuple(place for place, l2 in enumerate(self.l2) if l2 in near)

    @property
    def rank(self) -> tuple[float, float, float]:
        """What the best head is ordered by among those of other paths, the lowest first."""
        return min(self._ranks.values(), default=(math.inf,) * 3)

    @property
    def _ranks(self) -> dict[int, tuple[float, float, float]]:
        errors, losses = self.val_error, self.val_loss
        left_out = self.solution.left_out
        if self.validation is None and left_out is not None:
            errors, losses = tuple(left_out.error.tolist()), tuple(left_out.loss.tolist())
        elif self.validation is None:
            errors = losses = self._of_fitted((0.0,) * len(self.l2))
        own = self.figures if self.validation is not None else errors
        figures = {"error": errors, "loss": self._of_fitted(losses)}.get(self.selection, self._of_fitted(own))
        return {
            i: (figure, math.inf if math.isnan(loss) else loss, -l2)
            for i, (figure, loss, l2) in enumerate(zip(figures, losses, self.l2, strict=True))
            if not math.isnan(figure)
        }

    def _of_fitted(self, values: tuple[float, ...]) -> tuple[float, ...]:
        ended = zip(values, self.solution.status, strict=bool(values))
        return tuple(math.nan if status in (Status.DIVERGED, Status.SKIPPED) else value for value, status in ended)

    def __getitem__(self, i: int) -> HeadPath:
        """Return one value of the path, as a path of one."""
        validation = self.validation and (self.validation[0][i : i + 1], self.validation[1][i : i + 1])
        figures = self.figures[i : i + 1]
        return replace(self, l2=self.l2[i : i + 1], solution=self.solution[i], validation=validation, figures=figures)
