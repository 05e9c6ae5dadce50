"""Test sets in results: the record of each layer as every one of several test sets would have it."""

from __future__ import annotations

import math

import pandas as pd

SELECTED = "selected"
"""The `head` of a metric of the selected linear head."""

_COLUMNS = {
    "test_error": "error", "test_loss": "loss", "test_f1": "f1", "test_auc": "auc", "test_r2": "r2", "n_test": "n_test",
    "majority_error": "majority_error", "shuffled_error": "shuffled_error", "control_error": "control_error",
    "selectivity": "selectivity",
}  # fmt: skip
"""The metric that each column of `ProbeRecord` is, which is of a test set."""


def lines_of_test_sets(frame: pd.DataFrame) -> pd.DataFrame:
    """Give test sets the place of checkpoints, for a curve with a line for each; the primary one's is the last.

    Returns:
        The same rows, whose `checkpoint` is the name of a test set.
    """
    order = {name: -i for i, name in enumerate(frame["test_set"].unique())}
    rows = frame.sort_values("test_set", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return rows.assign(checkpoint=rows["test_set"])


def on_each_test_set(results: pd.DataFrame, metrics: pd.DataFrame, alone: str = "test") -> pd.DataFrame:
    """Lay out results with a row for each test set: what the record would say, had it been the only one.

    Returns:
        The rows in their order, the primary test set's first, with the column `test_set`. A layer that failed has a row
        for each test set.
    """
    read = metrics[(metrics["head"] == SELECTED) & (metrics["test_set"] != "")]
    names = read["test_set"].unique().tolist() if read["metric"].eq("error").any() else []
    if len(names) < 2:
        return results.assign(test_set=alone)
    keys = ["checkpoint", "layer", "test_set"]
    wide = read.pivot_table("value", keys, "metric", aggfunc="first", dropna=False)
    ends = read[read["metric"] == "error"].drop_duplicates(keys).set_index(keys)[["low", "high"]]
    found = results.merge(pd.DataFrame({"test_set": names}), how="cross")
    # Elsewhere read on one test set (a baseline), or not on this one; a layer that failed has a row for each.
    one = ~found.set_index(["checkpoint", "layer"]).index.isin(read.set_index(["checkpoint", "layer"]).index)
    there = pd.MultiIndex.from_frame(found[keys]).isin(ends.index) | (one & (found["test_set"] == names[0]))
    found = found[there | (found["status"] == "failed")].reset_index(drop=True)
    places = pd.MultiIndex.from_frame(found[keys])
    probed = places.isin(ends.index)
    for column, metric in _COLUMNS.items():
        known = wide[metric].reindex(places) if metric in wide else pd.Series(math.nan, index=places)
        values = known.set_axis(found.index).where(probed, found[column])
        found[column] = values.astype("int64" if column == "n_test" else "float64")
    for column, end in (("test_error_low", "low"), ("test_error_high", "high")):
        found[column] = ends[end].reindex(places).to_numpy()
    return found
