"""Solution of a solver: heads, and how far each can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from jaxtyping import Float, Int
from torch import Tensor


class Status(StrEnum):
    """How a fit ended."""

    CONVERGED = "converged"
    STALLED = "stalled"
    DIVERGED = "diverged"
    ROUGH = "rough"
    SKIPPED = "skipped"

    @property
    def message(self) -> str:
        """What this means for a reader of the results."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.CONVERGED: "",
    Status.STALLED: "the solver stopped before the gradient's norm proved the optimum; raise max_iterations or l2",
    Status.DIVERGED: "the objective became infinite or NaN; are the features finite?",
    Status.ROUGH: "fitted roughly: validation prefers another value; probe.path=full proves every optimum",
    Status.SKIPPED: "not fitted: validation was past its best at stronger penalties; probe.path=full fits all",
}


@dataclass(frozen=True)
class LeftOut:
    """Leave-one-out loss and error of each head of a path.

    Attributes:
        loss: Mean over the samples of half the squared distance to the target.
        error: Share of the samples whose largest score is not their target's; of numbers, the fraction of variance that
            is not explained.
    """

    loss: Float[Tensor, " p"]
    error: Float[Tensor, " p"]


@dataclass(frozen=True)
class Solution:
    """The heads of one path.

    Attributes:
        weight: One weight matrix for each L2 value.
        bias: One bias vector for each L2 value.
        objective: Training objective at the returned head, evaluated in float64.
        gap: Upper bound on (objective - optimum) / objective, from the gradient at the returned head.
        iterations: Iterations spent on each value.
        status: One status for each value.
        left_out: Leave-one-out figures, where they were asked for.
        certify: Where some values are `rough`: returns the path with those at the given places brought to the full
            certificate. It belongs to the newest solution; a solution that is kept has none.
    """

    weight: Float[Tensor, "p c d"]
    bias: Float[Tensor, "p c"]
    objective: Float[Tensor, " p"]
    gap: Float[Tensor, " p"]
    iterations: Int[Tensor, " p"]
    status: tuple[Status, ...]
    left_out: LeftOut | None = None
    certify: Callable[[Sequence[int]], Solution] | None = None

    def __getitem__(self, i: int) -> Solution:
        """Return one value of the path, as a path of one; a copy, so that the other heads can go."""
        one, left_out = slice(i, i + 1), self.left_out
        return Solution(
            self.weight[one].clone(),
            self.bias[one].clone(),
            self.objective[one],
            self.gap[one],
            self.iterations[one],
            self.status[one],
            None if left_out is None else LeftOut(left_out.loss[one], left_out.error[one]),
        )
