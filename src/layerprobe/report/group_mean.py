"""Means of groups, such as the seeds of one setting, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from layerprobe.statistics.intervals import student_half_width, wilson_interval


def group_mean(
    frame: pd.DataFrame,
    value: str,
    by: Sequence[str],
    *,
    yes_or_no: bool = False,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> pd.DataFrame:
    """Average a value over the rows of each group, such as the seeds of one setting.

    Args:
        frame: One row for each job.
        value: Name of the column to average; rows without it are passed over.
        by: Names of the columns that tell the groups apart; none makes one group of all.
        yes_or_no: Whether each row's value is one draw of 0 or 1, such as whether a run has solved its task. A test
            error is no such draw, also where it is exactly 0 or 1.
        bounds: What the value cannot go beyond, nor can an end of the interval.

    Returns:
        One row for each group, in order of first appearance: the columns of `by`, `n`, `mean`, `low` and `high`, the
        ends of a 95 % interval of the mean over rows: Wilson's for draws of 0 or 1, else Student's. They are NaN where
        `n` is below 2, and for Student's where all values are the same: these say nothing of how others would vary.
    """
    groups = frame.groupby(list(by), sort=False, dropna=False) if by else [((), frame)]
    rows = []
    for key, group in groups:
        values = group[value].dropna().to_numpy(dtype=float)
        low, high = _interval_of_mean(values, yes_or_no)
        rows.append(
            (*key, len(values), values.mean() if len(values) else math.nan, *np.clip((low, high), *bounds).tolist())
        )
    return pd.DataFrame(rows, columns=[*by, "n", "mean", "low", "high"])


def _interval_of_mean(values: np.ndarray, yes_or_no: bool) -> tuple[float, float]:
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    if yes_or_no:
        return wilson_interval(int(values.sum()), n)
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return math.nan, math.nan
    mean, half = float(values.mean()), student_half_width(float(values.std(ddof=1)), n)
    return mean - half, mean + half
