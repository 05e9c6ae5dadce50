"""Penalties on scikit-learn's scale, C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class ScikitLearnC:
    r"""scikit-learn's `C` as L2 values, which depend on the number of training samples.

    `LogisticRegression` minimises \(C \sum_i \ell_i + \tfrac12 \lVert w \rVert^2\), the logistic solver here
    \(\tfrac1n \sum_i \ell_i + \tfrac12\,\mathrm{l2}\,\lVert W \rVert^2\): the same for l2 = 1/(Cn). With two classes
    scikit-learn has one vector w, and at the optimum here W = (-w/2, w/2), so that ‖W‖² = ‖w‖²/2: the same for
    l2 = 2/(Cn).

    Attributes:
        values: Values of C, each above 0.
    """

    values: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        """Refuse values that cannot be.

        Raises:
            ValueError: Naming the value.
        """
        if bad := [value for value in self.values if not 0 < value < float("inf")]:
            raise ValueError(f"C holds {bad[0]}. Give finite values above 0, such as 1.0.")

    def __len__(self) -> int:
        """Count the values."""
        return len(self.values)

    def l2(self, n_train: int, n_classes: int) -> tuple[float, ...]:
        """Turn each C into an L2 value.

        Args:
            n_train: Training samples.
            n_classes: Classes among them.

        Returns:
            One L2 value for each C, in the same order.
        """
        return tuple((2 if n_classes == 2 else 1) / (c * n_train) for c in self.values)
