"""Patience: when a path, followed from strong to weak penalties, is past its best head."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.heads import Heads

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
