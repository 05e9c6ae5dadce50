"""The columns of errors that a curve can show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorColumn:
    """An error of the selected heads, as a column of the results.

    Attributes:
        column: Name of the column.
        title: What it is called.
        samples: Column of the number of samples that it is a share of.
        interval: Columns with the ends of its 95 % interval; empty where it has none.
    """

    column: str
    title: str
    samples: str
    interval: tuple[str, ...] = ()


TEST_ERROR = ErrorColumn("test_error", "test error", "n_test", ("test_error_low", "test_error_high"))
TRAIN_ERROR = ErrorColumn("train_error", "train error", "n_train")
"""On the samples that a head was fitted to: without an interval, for they are no sample of anything else."""

ERRORS = {"test": TEST_ERROR, "train": TRAIN_ERROR}
