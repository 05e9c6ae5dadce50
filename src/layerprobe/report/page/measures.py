"""Measures of layers: what the page can draw over depth in place of the test error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from layerprobe.report.run_comparison import Comparison

_KEYS = ["run", "checkpoint", "layer_name"]
_PARTS = {"value": "", "low": "_low", "high": "_high"}

_OF_RECORDS: Mapping[str, tuple[str, bool]] = {
    "train_error": ("training error", True),
    "val_error": ("validation error", True),
    "selectivity": ("selectivity", True),
    "test_auc": ("AUC", True),
    "test_f1": ("f1", True),
    "test_r2": ("R²", False),
}
_OF_ANALYSES: Mapping[tuple[str, str], tuple[str, bool]] = {
    ("v_information", "v_information"): ("V-information, bits", False),
    ("description_length", "compression"): ("compression of the labels", False),
    ("mean_difference", "angle"): ("angle to the difference of means, degrees", False),
    ("stability", "angle"): ("angle between halves of train, degrees", False),
    ("erased", "error"): ("test error without the erased direction", True),
}
_NAMES = {"auc": "AUC"}
_NO_SHARES = ("brier", "loss")
_DRAWN = ("error", "majority_error", "shuffled_error", "control_error", "n_test", "r2", "selectivity")


@dataclass(frozen=True)
class Measure:
    """Something that was measured of layers.

    Attributes:
        field: Column of `PageData.rows`; `<field>_low` and `<field>_high` are the ends of its 95 % interval.
        name: What a reader calls it.
        share: Whether it is written in percent.
    """

    field: str
    name: str
    share: bool


def measures(
    comparison: Comparison, results: pd.DataFrame, numbers: Mapping[str, Mapping[str, int]]
) -> tuple[tuple[Measure, ...], pd.DataFrame]:
    """Find what the runs measured besides the test error: the measures, and a row for each run, checkpoint and layer.

    Args:
        comparison: The runs.
        results: Their results, with the numbers of `run`, `checkpoint` and `layer_name`.
        numbers: The number of each `checkpoint` and `layer`, by its name.
    """
    found = []
    for i, run in enumerate(comparison.runs):
        if (metrics := run.metrics()).empty:
            continue
        rows = _of_metrics(metrics)
        at = {name: rows[name].map(numbers[name]) for name in ("checkpoint", "layer")}
        found.append(rows.assign(run=i, checkpoint=at["checkpoint"], layer_name=at["layer"]))
    for column, (name, share) in _OF_RECORDS.items():
        own = results[_KEYS].assign(value=results[column], low=float("nan"), high=float("nan"), name=name, share=share)
        found.append(own)
    columns = [*_KEYS, "name", "share", *_PARTS]
    rows = pd.concat([rows[columns] for rows in found], ignore_index=True)
    rows = rows[rows["value"].notna() & rows["checkpoint"].notna() & rows["layer_name"].notna()]
    rows = rows.astype({"checkpoint": int, "layer_name": int}).drop_duplicates([*_KEYS, "name"])
    shares = rows.groupby("name", sort=False)["share"].first()
    known = tuple(Measure(f"measure{i}", str(name), bool(share)) for i, (name, share) in enumerate(shares.items()))
    wide = results[_KEYS].drop_duplicates()
    for measure in known:
        own = rows.loc[rows["name"] == measure.name, [*_KEYS, *_PARTS]]
        wide = wide.merge(
            own.rename(columns={part: measure.field + end for part, end in _PARTS.items()}), on=_KEYS, how="left"
        )
    return known, wide


def _of_metrics(metrics: pd.DataFrame) -> pd.DataFrame:
    """Choose the rows that are measures, on the first of several test sets, with `name` and `share`."""
    first = metrics.loc[metrics["test_set"] != "", "test_set"].head(1)
    rows = metrics[metrics["test_set"].isin(["", *first])]
    named: list[tuple[str, bool] | None] = []
    for head, metric, n in zip(rows["head"], rows["metric"], rows["n_train"], strict=True):
        if head == "selected":
            known = (
                None if metric in _DRAWN else (_NAMES.get(metric, metric.replace("_", " ")), metric not in _NO_SHARES)
            )
        elif (head, metric) == ("few_shot", "error"):
            known = f"test error from {n:,} labelled samples", True
        else:
            known = _OF_ANALYSES.get((head, metric))
        named.append(known)
    kept = pd.Series([one is not None for one in named], rows.index, dtype=bool)
    return rows[kept].assign(
        name=[one[0] for one in named if one is not None], share=[one[1] for one in named if one is not None]
    )
