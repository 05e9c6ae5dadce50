"""The depth curve of a run: error over depth, a line for each checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from layerprobe.report import style
from layerprobe.report.charts.baselines import baseline_lines, baseline_rows, control_lines, name_places
from layerprobe.report.charts.beyond_linear import reader_lines, reader_names, readers
from layerprobe.report.charts.curves import Y, curves, error_y
from layerprobe.report.charts.layer_axis import LayerAxis, layer_names
from layerprobe.report.charts.line_legend import checkpoint_lines
from layerprobe.report.charts.overlay import overlay
from layerprobe.report.charts.tooltips import result_tooltip
from layerprobe.report.error_column import TEST_ERROR, ErrorColumn
from layerprobe.report.papers.reference_curve import Reference
from layerprobe.report.tidy import axis_top, tidy_results, with_texts
from layerprobe.results.arrow_tables import to_frame
from layerprobe.results.baselines import baseline_errors, without_baselines
from layerprobe.types import MetricRecord

_COLUMNS = [
    "position", "label", "caption", "colour", "checkpoint", "step", "layer", "depth", "kind", "shape", "features",
    "l2", "status", "train_error", "test_error", "test_error_low", "test_error_high",
    "error_text", "interval", "l2_text",
]  # fmt: skip
_HEIGHT = 300


def depth_curve(
    results: pd.DataFrame,
    error: ErrorColumn = TEST_ERROR,
    reference: Reference | None = None,
    metrics: pd.DataFrame | None = None,
) -> alt.LayerChart:
    """Draw error over depth: a line for each checkpoint, its 95% interval as a band, over a published curve.

    A failed layer leaves a gap and a cross at its place. Baselines (the majority class, a bag of words) and the
    controls of the last checkpoint are thin grey lines, or are named above the curves where they lie far beyond
    them. So are single errors that would flatten all others: a triangle at the upper edge, with the figure.

    Args:
        results: Results of one run, in the columns of `ProbeRecord`.
        error: Which error.
        reference: A curve to draw over, thin and black; layers correspond in the order of depth.
        metrics: What was measured besides, in the columns of `MetricRecord`: the test errors of analyses that were
            compared with the linear head are thin lines of the last checkpoint.

    Raises:
        ReferenceCurveError: If the reference does not fit the run.
    """
    frame = with_texts(tidy_results(without_baselines(results)))
    axis = LayerAxis.of(layer_names(frame), frame["layer"])
    x, width = axis.x, axis.width
    baselines = {f"{name} {value:.1%}": value for name, values in baseline_errors(results).items() for value in values}
    controls = _controls(frame, error)
    measured = to_frame([], MetricRecord) if metrics is None or error.column != "test_error" else metrics
    others = readers(frame, measured, "error")
    compared = None if reference is None else reference.compared(without_baselines(results), error)
    ends = controls.groupby("control", sort=False)["value"].max()
    highest = {str(name): float(value) for name, value in ends.items()} | baselines
    least = others.groupby("reader", sort=False)["value"].min()
    on_axis = highest | dict(enumerate(others["value"]))
    top = _top(frame, on_axis, error, 0.0 if compared is None else float(compared["reference"].max()))
    beyond = [str(name) for name, value in (highest | least.to_dict()).items() if value > top]
    others = others[others["reader"].map(least) <= top]

    frame, look = checkpoint_lines(frame, width, result_tooltip("layer", "caption"))
    y = error_y(error.title, alt.Scale(domain=[0, top], nice=False))
    base = alt.Chart(frame[_COLUMNS])
    layers = [
        *curves(
            base, x, y, error.column, look, interval=error.interval,
            between=_compared_with(baselines, controls, others, top, x, y, width),
            marked=f"{axis.marked} && datum.{error.column} <= {top}",
            failed=bool(frame["test_error"].isna().any()),
        ),
        *_reference_lines(compared, x, y),
        *_beyond(base, frame, top, x, y, error),
    ]  # fmt: skip
    notes = _notes(frame, others, beyond, top, error, reference)
    return overlay(layers, width, _HEIGHT, f"{error.title.capitalize()} over depth", notes)


def _top(frame: pd.DataFrame, compared_with: Mapping[Any, float], error: ErrorColumn, reference: float) -> float:
    """End of the error axis: the curves fill it, and a line is on it that does not flatten them."""
    ends = frame[(error.interval or (error.column,))[-1]].fillna(frame[error.column])
    curves_end = max(axis_top(ends), reference)
    highest = max([curves_end, *(value for value in compared_with.values() if value <= 1.7 * curves_end)])
    return float(min(1.0, max(1.07 * highest, 0.005)))


def _controls(frame: pd.DataFrame, error: ErrorColumn) -> pd.DataFrame:
    """List the test errors of the last checkpoint's controls, layer by layer."""
    rows = frame[frame["checkpoint_order"] == frame["checkpoint_order"].max()]
    known = {"shuffled_error": "shuffled labels", "control_error": "control task"}
    of_test = known if error.column == "test_error" else {}
    found = [rows[["position"]].assign(control=name, value=rows[column]) for column, name in of_test.items()]
    return pd.concat([pd.DataFrame(columns=["position", "control", "value"]), *found]).dropna()


def _compared_with(
    baselines: Mapping[str, float],
    controls: pd.DataFrame,
    others: pd.DataFrame,
    top: float,
    x: alt.X,
    y: Y,
    width: int,
) -> list[alt.Chart]:
    """Draw the lines of baselines, controls and other readers that are on the axis, with their names."""
    flat = {name: value for name, value in baselines.items() if value <= top}
    controls = controls[controls.groupby("control")["value"].transform("max") <= top]
    ends = controls.groupby("control", sort=False).tail(1)
    last = others.groupby("reader", sort=False).tail(1)
    places = name_places([*flat.values(), *ends["value"], *last["value"]], (0.0, top), _HEIGHT)
    rows = baseline_rows(flat, (0.0, top), _HEIGHT).assign(baseline_place=places[: len(flat)])
    named = controls.assign(
        baseline_name=controls["control"],
        baseline_place=pd.Series(places[len(flat) :][: len(ends)], ends.index),
    )
    last = last.assign(baseline_place=places[len(flat) + len(ends) :])
    return [
        *(baseline_lines(alt.Chart(rows), y, width) if flat else []),
        *control_lines(named, x, y, width),
        *reader_lines(others, x, y),
        *(reader_names(last, y, (0.0, top), _HEIGHT, width) if len(last) else []),
    ]


def _reference_lines(compared: pd.DataFrame | None, x: alt.X, y: Y) -> list[alt.Chart]:
    """Draw the published errors, thin and black, over the run's own."""
    if compared is None:
        return []
    tips = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("caption:N", title="checkpoint"),
        alt.Tooltip("reference:Q", format=".1%"),
    ]
    return [
        alt.Chart(compared[["position", "layer", "caption", "reference"]])
        .mark_line(color=style.INK, strokeWidth=1)
        .encode(x=x, y=y("reference"), detail="caption:N", tooltip=tips)
    ]


def _beyond(base: alt.Chart, frame: pd.DataFrame, top: float, x: alt.X, y: Y, error: ErrorColumn) -> list[alt.Chart]:
    """Draw triangles for errors beyond the axis; the figures stand on the side where there is room."""
    if not (frame[error.column] > top).any():
        return []
    middle = frame["position"].max() / 2
    beyond = base.transform_filter(f"datum.{error.column} > {top}").transform_calculate(top=f"{top}")
    at = {"x": x, "y": y("top"), "color": alt.Color("colour:N", scale=None)}
    figure = alt.Text(f"{error.column}:Q", format=".1%")
    sides = (
        beyond.transform_filter(f"datum.position > {middle}").mark_text(align="right", dx=-9, dy=7, fontSize=11),
        beyond.transform_filter(f"datum.position <= {middle}").mark_text(align="left", dx=9, dy=7, fontSize=11),
    )
    triangles = beyond.mark_point(shape="triangle-up", filled=True, opacity=1, size=70, yOffset=6)
    return [
        triangles.encode(**at, tooltip=result_tooltip("layer", "caption")),
        *(side.encode(**at, text=figure) for side in sides),
    ]


def _notes(
    frame: pd.DataFrame,
    others: pd.DataFrame,
    too_high: Sequence[str],
    top: float,
    error: ErrorColumn,
    reference: Reference | None,
) -> list[str]:
    bounded = error.interval and frame[error.interval[-1]].notna().any()
    interval = ", 95% interval" if bounded else ""
    split = error.title.removesuffix(" error")
    fewest, most = frame[error.samples].min(), frame[error.samples].max()
    samples = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    notes = [f"one linear head per layer, {samples} {split} samples{interval}"]
    if len(others):
        at = f" of {others['caption'].iloc[0]}" if frame["checkpoint"].nunique() > 1 else ""
        notes.append(f"thin and coloured: other readers{at}")
    if reference is not None:
        notes.append(f"thin and black: {reference.name}")
    beyond = [*too_high]
    beyond += ["triangles"] if (frame[error.column] > top).any() else []
    if beyond:
        notes.append(f"beyond the axis: {' and '.join(beyond)}")
    if frame["test_error"].isna().any():
        notes.append("× failed")
    return notes
