"""Selection of one head of each layer, by validation alone, and when a path of L2 values is past its best head."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.head_path import HeadPath
from layerprobe.probing.heads import Heads
from layerprobe.probing.solvers.solution import Status


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
