"""The map of token positions: the test error of every layer at every position as a colour."""

from __future__ import annotations

import altair as alt
import pandas as pd

from layerprobe.report.charts.error_map import error_map
from layerprobe.report.charts.layer_axis import layer_names, layers_of
from layerprobe.report.tidy import captions, tidy_results
from layerprobe.results.baselines import without_baselines

_ERROR, _VAL_ERROR = "reducer_error", "reducer_val_error"


def has_positions(metrics: pd.DataFrame) -> bool:
    """Tell whether a run has read the test error of several reducers of a layer."""
    return metrics.loc[metrics["metric"] == _ERROR, "head"].nunique() > 1


def position_map(
    results: pd.DataFrame, metrics: pd.DataFrame, checkpoint: str | None = None, test_set: str | None = None
) -> alt.LayerChart:
    """Draw layers by token positions: the input on top, the text from left to right, dark for a high test error.

    Of the last checkpoint and the first test set, unless others are named. Cells that are tall enough carry their
    figure; a layer that has no tokens has no cells.

    Raises:
        ValueError: If there is nothing to draw.
    """
    names = captions(without_baselines(results)) if len(results) else {}
    known = metrics[(metrics["metric"] == _ERROR) & metrics["checkpoint"].isin(list(names))]
    if known.empty:
        raise ValueError(
            "There are no errors by position. Probe with several reducers and each_reducer=True: reducer=[positions] "
            "probe.each_reducer=true, or probe(…, reducer=layerprobe.token_positions(last=4), each_reducer=True)."
        )
    there = set(known["checkpoint"])
    checkpoint = [name for name in names if name in there][-1] if checkpoint is None else checkpoint
    known = known[known["checkpoint"] == checkpoint]
    test_set = known["test_set"].iloc[0] if test_set is None and len(known) else test_set
    known = known[known["test_set"] == test_set]
    if known.empty:
        raise ValueError(
            f"There are no errors by position of {checkpoint!r} and {test_set!r}. There is: {', '.join(sorted(there))}."
        )
    layers = tidy_results(results[(results["checkpoint"] == checkpoint) & results["layer"].isin(set(known["layer"]))])
    frame = known.merge(layers[["layer", "position", "label", "kind", "shape", "n_test"]], on="layer")
    chosen_on = metrics[(metrics["metric"] == _VAL_ERROR) & (metrics["checkpoint"] == checkpoint)]
    frame = frame.merge(
        chosen_on[["layer", "head", "value"]].rename(columns={"value": "val_error"}), on=["layer", "head"], how="left"
    )
    frame = frame.rename(columns={"position": "row", "head": "column"})
    notes = [f"one linear head per layer and position, {int(frame['n_test'].max()):,} test samples"]
    return error_map(
        frame,
        layer_names(layers),
        list(dict.fromkeys(known["head"])),
        f"Test error by layer and token position, {names[checkpoint]}",
        [*notes, *([] if test_set == "test" else [f"test set: {test_set}"])],
        column="position",
        axis_title=layers_of(layers["layer"].unique()),
    )
