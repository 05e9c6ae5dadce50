"""The map of token positions: the test error of every layer at every position as a colour."""

from __future__ import annotations

import altair as alt
import pandas as pd

from layerprobe.formatting import interval_text, percent_text
from layerprobe.report import style
from layerprobe.report.charts.heat_map import cells
from layerprobe.report.charts.layer_axis import layer_names, thinned
from layerprobe.report.layer_labels import shared_folder
from layerprobe.report.tidy import axis_top, captions, tidy_results
from layerprobe.results.baselines import without_baselines

_ERROR, _VAL_ERROR = "reducer_error", "reducer_val_error"


def has_positions(metrics: pd.DataFrame) -> bool:
    """Whether a run has read the test error of several reducers of a layer.

    Args:
        metrics: What else was measured, in the columns of `MetricRecord`.
    """
    return metrics.loc[metrics["metric"] == _ERROR, "head"].nunique() > 1


def position_map(
    results: pd.DataFrame, metrics: pd.DataFrame, checkpoint: str | None = None, test_set: str | None = None
) -> alt.LayerChart:
    """Draw layers by token positions: the input on top, the text from left to right, dark for a high test error.

    Args:
        results: Results of one run, in the columns of `ProbeRecord`.
        metrics: What else was measured, in the columns of `MetricRecord`, of a sweep with `each_reducer`.
        checkpoint: Name of the checkpoint; by default the last one.
        test_set: Name of the test set; by default the first.

    Returns:
        The chart. Cells that are tall enough carry their figure; a layer that has no tokens has no cells.

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
    heads, labels = list(dict.fromkeys(known["head"])), layer_names(layers)
    top = max(0.005, axis_top(frame["value"]))
    digits = 2 if top < 0.05 else 1
    frame["text"] = ["" if error != error else f"{error:.{digits}%}" for error in frame["value"]]
    frame["error_text"] = [percent_text(error) for error in frame["value"]]
    frame["interval"] = [interval_text(low, high) or "–" for low, high in zip(frame["low"], frame["high"], strict=True)]
    frame["val_text"] = [percent_text(error) for error in frame["val_error"]]
    height = max(5, min(26 if len(labels) <= 16 else 18, 920 // len(labels)))
    wide = max(70, min(110, 620 // len(heads)))
    shared = shared_folder(layers["layer"].unique().tolist())
    columns = ["position", "head", "layer", "depth", "kind", "shape", "value", "text", "error_text", "interval",
               "val_text"]  # fmt: skip
    tooltip = [
        alt.Tooltip("layer:N"), alt.Tooltip("depth:Q"), alt.Tooltip("kind:N"), alt.Tooltip("shape:N"),
        alt.Tooltip("head:N", title="position"), alt.Tooltip("error_text:N", title="test error"),
        alt.Tooltip("interval:N", title="95% interval"), alt.Tooltip("val_text:N", title="validation error"),
    ]  # fmt: skip
    across = alt.X(
        "head:N",
        sort=heads,
        scale=alt.Scale(paddingInner=0.03, paddingOuter=0.015),
        axis=alt.Axis(orient="top", title=None, domain=False, ticks=False, labelAngle=0, labelLimit=wide),
    )
    down = alt.Y(
        "position:O",
        scale=alt.Scale(paddingInner=0.06 if height >= 12 else 0, paddingOuter=0.03),
        axis=alt.Axis(
            **thinned(labels, height), title=f"layers of {shared}" if shared else None, domain=False, ticks=False
        ),
    )
    drawn = cells(
        alt.Chart(frame[columns]), across, down, "value", top, height * len(labels), tooltip=tooltip,
        text=alt.Text("text:N") if height >= 14 else None,
    )  # fmt: skip
    notes = [f"one linear head per layer and position, {int(frame['n_test'].max()):,} test samples"]
    if test_set != "test":
        notes.append(f"test set: {test_set}")
    if (frame["value"] > top).any():
        notes.append(f"darkest: {top:.{digits}%} and above")
    width = wide * len(heads)
    return (
        alt.layer(*drawn)
        .properties(
            width=width,
            height=height * len(labels),
            title=alt.TitleParams(
                f"Test error by layer and token position, {names[checkpoint]}", subtitle=style.packed(notes, width)
            ),
        )
        .configure(**style.theme())
    )
