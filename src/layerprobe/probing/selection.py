"""Choose one head for each layer, on validation alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """How one swept head does on validation.

    Attributes:
        val_error: Share of validation samples that it gets wrong.
        val_loss: Its mean validation loss.
        l2: Its L2 value.
    """

    val_error: float
    val_loss: float
    l2: float


def select(candidates: Sequence[Candidate]) -> int | None:
    """The best candidate: lowest validation error, then lower validation loss, then larger l2.

    Args:
        candidates: The swept heads.

    Returns:
        Index of the best, the first of equals; None where no candidate has a validation error.
    """
    usable = [i for i, candidate in enumerate(candidates) if not math.isnan(candidate.val_error)]
    if not usable:
        return None
    return min(usable, key=lambda i: _rank(candidates[i]))


def _rank(candidate: Candidate) -> tuple[float, float, float]:
    loss = math.inf if math.isnan(candidate.val_loss) else candidate.val_loss
    return candidate.val_error, loss, -candidate.l2
