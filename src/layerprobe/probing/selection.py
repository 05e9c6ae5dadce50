"""Paths of L2 values, when one is past its best head, and the choice of one head of each layer: by validation alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

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
        """Places of a value and of those next to it, stronger and weaker, among all that were fitted."""
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
        """One value of the path, as a path of one."""
        validation = self.validation and (self.validation[0][i : i + 1], self.validation[1][i : i + 1])
        figures = self.figures[i : i + 1]
        return replace(self, l2=self.l2[i : i + 1], solution=self.solution[i], validation=validation, figures=figures)


def select(paths: Sequence[HeadPath]) -> HeadPath | None:
    """Choose the path whose best head is best, the first of equals; None where no head has an error."""
    return min((path for path in paths if path.best is not None), key=lambda path: path.rank, default=None)


def with_certified_best(
    path: HeadPath, evaluate: Callable[[Heads], tuple[Float[Tensor, " p"], Float[Tensor, " p"], Float[Tensor, " f"]]]
) -> HeadPath:
    """Bring the best head of a path that was walked roughly to its certificate, and its neighbours.

    Certified heads do a little better or worse on validation than rough ones. So the choice is made again, until the
    best of all and its neighbours are certified; then no other head is, unless it was for a while the best.

    Returns:
        The path with what validation says of the heads as they are now.
    """
    solution = path.solution
    while solution.certify is not None and path.best is not None and path.validation is not None:
        rough = [i for i in path.around(path.best) if solution.status[i] is Status.ROUGH]
        if not rough:
            break
        solution = solution.certify(rough)
        columns = [list(values) for values in (*path.validation, path.figures)]
        again = evaluate(Heads(solution.weight[rough], solution.bias[rough]))
        for column, values in zip(columns, again, strict=True):
            for i, value in zip(rough, values.tolist(), strict=bool(column)):
                column[i] = value
        errors, losses, figures = map(tuple, columns)
        path = replace(path, solution=solution, validation=(errors, losses), figures=figures)
    return replace(path, solution=replace(solution, certify=None))


PATIENCE = 2
"""Heads in a row after which a path that is walked roughly ends."""


@dataclass
class PastBest:
    """True after `patience` heads in a row that validation likes less, or that do not err, as the best before them.

    Validation likes a head less that has more loss than the one before, and no lower error, or what else the head is
    chosen by, than the best before it. Both are asked, because the error may go on falling where the loss has begun to
    rise: a head that grows too sure of itself is not yet wrong more often. Where the best does not err at all there is
    nothing to be gained, while the loss of separated classes falls as long as the penalty does. A perfect ranking is no
    such end: under a strong penalty heads rank all samples rightly that still answer the majority class.

    Attributes:
        patience: Heads in a row.
        evaluate: What heads are chosen by on validation, to be small, and their loss.
        perfect: Whether a head that has 0 of it does not err.
    """

    patience: int
    evaluate: Callable[[Heads], tuple[Float[Tensor, " p"], Float[Tensor, " p"]]]
    perfect: bool = True
    _best: float = field(default=math.inf, init=False)
    _last: float = field(default=math.inf, init=False)
    _worse: int = field(default=0, init=False)

    def __call__(self, weight: Float[Tensor, "c d"], bias: Float[Tensor, " c"]) -> bool:
        """Look at the next head, at a weaker penalty than the one before."""
        error, loss = (float(part[0]) for part in self.evaluate(Heads(weight[None], bias[None])))
        past = loss > self._last or (self.perfect and error == 0)
        self._worse = self._worse + 1 if error >= self._best and past else 0
        self._best, self._last = min(error, self._best), loss
        return self._worse >= self.patience
