"""One number for a run, for a sweeper to make small."""

from __future__ import annotations

import math

import pandas as pd


def best_validation_error(results: pd.DataFrame) -> float:
    """The lowest validation error of the last checkpoint's layers.

    Args:
        results: Results of one run, in the columns of `ProbeRecord`.

    Returns:
        A share in [0, 1]; NaN where no layer was probed.
    """
    last = _last(results)
    return float(last["val_error"].min()) if len(last) else math.nan


def area_under_depth_curve(results: pd.DataFrame) -> float:
    """The mean over depth of the last checkpoint's validation error, by the trapezoidal rule.

        1/(d_k - d_1) sum_i (d_{i+1} - d_i) (e_i + e_{i+1}) / 2

    Args:
        results: Results of one run, in the columns of `ProbeRecord`.

    Returns:
        A share in [0, 1]; NaN where no layer was probed.
    """
    last = _last(results).groupby("depth")["val_error"].min()
    if last.empty:
        return math.nan
    depth, error = last.index.to_numpy(dtype=float), last.to_numpy(dtype=float)
    if len(depth) == 1:
        return float(error[0])
    steps = depth[1:] - depth[:-1]
    return float((steps * (error[1:] + error[:-1]) / 2).sum() / (depth[-1] - depth[0]))


def _last(results: pd.DataFrame) -> pd.DataFrame:
    usable = results[results["val_error"].notna()]
    return usable[usable["checkpoint"] == usable["checkpoint"].iloc[-1]] if len(usable) else usable
