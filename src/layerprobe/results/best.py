"""The best layer of a run."""

from __future__ import annotations

import math

import pandas as pd


def best_layer(results: pd.DataFrame) -> tuple[str, float]:
    """Find the layer that validation prefers at the last checkpoint.

    Args:
        results: Results of one run, in the columns of `ProbeRecord`.

    Returns:
        Its name and its test error; "" and NaN where no layer was probed.
    """
    usable = results[results["val_error"].notna()]
    if usable.empty:
        return "", math.nan
    last = usable[usable["checkpoint"] == usable["checkpoint"].iloc[-1]]
    best = last.loc[last["val_error"].idxmin()]
    return str(best["layer"]), float(best["test_error"])
