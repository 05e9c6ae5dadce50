"""The options of a run's figures: which error the depth curve shows, over which published curve, or none at all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.table import Table

from layerprobe.report.error_column import ERRORS
from layerprobe.report.papers.reference_curve import Reference, reference_table


class DepthView:
    """Which error is drawn over depth, and over which published curve.

    The reference is read at once, so that a mistake in its path is known before anything is computed.

    Args:
        error: `test`, or `train` for the samples that the heads were fitted to.
        reference: A JSON file; see `Reference.read`.
        figures: Whether a run draws its figures, which takes some seconds.

    Raises:
        ValueError: If the error is neither.
        ReferenceCurveError: If the reference cannot be read.

    Attributes:
        error: The error.
        reference: The curve; None where there is none.
    """

    def __init__(self, error: str = "test", reference: str | Path | None = None, figures: bool = True) -> None:
        if error not in ERRORS:
            raise ValueError(f"report.error={error!r}: there are {' and '.join(map(repr, ERRORS))}")
        self.error = ERRORS[error]
        self.reference = None if reference is None else Reference.read(reference)
        self.figures = figures

    def distance(self, results: pd.DataFrame, directory: Path) -> Table | None:
        """Write `reference.csv`, the run and the reference layer by layer, and sum it up.

        Returns:
            The sum for the terminal; None where there is no reference.
        """
        if self.reference is None:
            return None
        compared = self.reference.compared(results, self.error)
        directory.mkdir(parents=True, exist_ok=True)
        compared.drop(columns=["position", "caption"]).to_csv(directory / "reference.csv", index=False)
        return reference_table(compared, self.reference.name)
