"""The last checkpoint of a run, and its best layer: what a run comes down to, wherever one number stands for it.

The last checkpoint is the one with the most training steps; of several with as many, the one that was probed last, but
for `untrained`, the same network with random weights, and the data's baselines, which are no networks. It counts from
its first layer with a test error on, unless it is named as unfinished. The best layer is the one with the lowest
validation error there; of several, the first in order of depth.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd

from layerprobe.results.baselines import without_baselines
from layerprobe.types import UNTRAINED


class BestLayer(NamedTuple):
    """The layer that validation prefers at the last checkpoint.

    The name is empty where no layer has a validation error.
    """

    layer: str = ""
    test_error: float = math.nan
    test_error_low: float = math.nan
    test_error_high: float = math.nan


def last_checkpoint(results: pd.DataFrame, unfinished: Collection[str] = ()) -> str:
    """Name the last checkpoint; empty where no layer of the network has a test error.

    Args:
        results: Results of one run, in the columns of `ProbeRecord`.
        unfinished: Checkpoints that are passed over, since layers of them are missing; unless there is no other.
    """
    usable = without_baselines(results[["checkpoint", "step", "depth", "test_error"]])
    usable = usable[usable["test_error"].notna()]
    names = usable["checkpoint"].iloc[np.lexsort((usable["checkpoint"] != UNTRAINED, usable["step"]))].unique().tolist()
    return next((name for name in reversed(names) if name not in unfinished), names[-1] if names else "")


def at_last_checkpoint(results: pd.DataFrame) -> pd.DataFrame:
    """Take the rows of the last checkpoint, as `at_checkpoint`."""
    return at_checkpoint(results, last_checkpoint(results))


def at_checkpoint(results: pd.DataFrame, checkpoint: str) -> pd.DataFrame:
    """Take the rows of a checkpoint that have a test error, in order of depth."""
    rows = results[(results["checkpoint"] == checkpoint) & results["test_error"].notna()]
    return rows.sort_values("depth", kind="stable")


def best_layer(results: pd.DataFrame) -> BestLayer:
    """Find the layer that validation prefers at the last checkpoint."""
    return best_of(at_last_checkpoint(results))


def best_of(rows: pd.DataFrame) -> BestLayer:
    """Find the layer that validation prefers among the rows of `at_checkpoint`."""
    rows = rows[rows["val_error"].notna()]
    if rows.empty:
        return BestLayer()
    best = rows.iloc[int(rows["val_error"].argmin())]
    return BestLayer(str(best["layer"]), *(float(best[name]) for name in BestLayer._fields[1:]))
