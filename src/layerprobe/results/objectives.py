"""Objectives of a sweep: one number for a run, to be minimised."""

from __future__ import annotations

import math

import pandas as pd

from layerprobe.results.best import at_last_checkpoint


def best_validation_error(results: pd.DataFrame) -> float:
    """Find the lowest validation error of the last checkpoint's layers.

    Args:
        results: Results of one run, in the columns of `ProbeRecord`.

    Returns:
        A share in [0, 1]; NaN where no layer was probed.
    """
    return float(at_last_checkpoint(results)["val_error"].min())


def area_under_depth_curve(results: pd.DataFrame) -> float:
    """Average over depth the last checkpoint's validation error, by the trapezoidal rule.

        1/(d_k - d_1) sum_i (d_{i+1} - d_i) (e_i + e_{i+1}) / 2

    Args:
        results: Results of one run, in the columns of `ProbeRecord`.

    Returns:
        A share in [0, 1]; NaN where no layer was probed.
    """
    last = at_last_checkpoint(results).groupby("depth")["val_error"].min().dropna()
    if last.empty:
        return math.nan
    depth, error = last.index.to_numpy(dtype=float), last.to_numpy(dtype=float)
    if len(depth) == 1:
        return float(error[0])
    steps = depth[1:] - depth[:-1]
    return float((steps * (error[1:] + error[:-1]) / 2).sum() / (depth[-1] - depth[0]))
