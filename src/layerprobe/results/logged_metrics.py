"""Logged metrics, the same for any logger: the test error of each layer, and of what its head is compared with."""

from __future__ import annotations

import math

import pandas as pd

DIFFERENCE = "error_difference"
"""Metric of an analysis that was compared with the linear head: the head's error less its own."""


def layer_metrics(frame: pd.DataFrame, metrics: pd.DataFrame | None = None) -> dict[str, float]:
    """Name each layer's test error as it is logged.

    Returns:
        `probe/<layer>/test_error` as a share in [0, 1], in order of depth; of further test sets
        `probe/<layer>/<test set>/test_error`. Failed layers are left out. After them
        `probe/<layer>/<analysis>/test_error` of the analyses that were compared with the linear head.

    Raises:
        ValueError: If the frame holds several checkpoints.
    """
    checkpoints = frame["checkpoint"].unique()
    if len(checkpoints) > 1:
        raise ValueError(
            f"the errors of one checkpoint are logged together; found {', '.join(checkpoints)}. "
            f"Next step: call it for each group of frame.groupby('checkpoint')."
        )
    rows = frame.sort_values("depth", kind="stable")
    names = rows["test_set"] if "test_set" in rows else pd.Series("test", index=rows.index)
    among = ["" if name == names.iloc[0] else f"{name}/" for name in names]
    errors = zip(rows["layer"], among, rows["test_error"], strict=True)
    found = {f"probe/{layer}/{name}test_error": float(error) for layer, name, error in errors if math.isfinite(error)}
    others = compared_errors(metrics) if metrics is not None else None
    if found and others is not None:
        others = others[others["checkpoint"].isin(checkpoints)].sort_values("depth", kind="stable")
        for layer, head, error in zip(others["layer"], others["head"], others["value"], strict=True):
            found[f"probe/{layer}/{head}/test_error"] = float(error)
    return found


def compared_errors(metrics: pd.DataFrame, metric: str = "error") -> pd.DataFrame:
    """Choose what the analyses that were compared with the linear head measured, on the first of several test sets."""
    compared = metrics[metrics["metric"] == DIFFERENCE]
    first = metrics["test_set"].isin(compared["test_set"].head(1))
    return metrics[first & (metrics["metric"] == metric) & metrics["head"].isin(compared["head"])]
