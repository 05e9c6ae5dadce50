"""Difference over depth: what k nearest neighbours, a hidden layer or class means read that a linear head does not."""

from __future__ import annotations

import altair as alt
import pandas as pd

from layerprobe.report import style
from layerprobe.report.charts.baselines import name_places
from layerprobe.report.charts.curves import Look, Y, curves, error_y
from layerprobe.report.charts.layer_axis import LayerAxis, layer_names
from layerprobe.report.charts.overlay import overlay
from layerprobe.report.tidy import tidy_results
from layerprobe.results.baselines import without_baselines
from layerprobe.results.logged_metrics import DIFFERENCE, compared_errors

_NAMES = {"knn": "nearest neighbours", "mlp": "hidden layer"}
COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#D55E00")
_SHAPES = ("square", "triangle-up", "diamond", "triangle-down", "cross")
_HEIGHT = 220


def beyond_linear(results: pd.DataFrame, metrics: pd.DataFrame) -> alt.LayerChart:
    """Draw the linear head's error less each other reader's over depth, at the last checkpoint, with paired intervals.

    Returns:
        The chart: above 0 lies what the layer holds for the other reader and not for a linear head.

    Raises:
        ValueError: If no analysis was compared with the linear head.
    """
    frame = tidy_results(without_baselines(results))
    rows = readers(frame, metrics, DIFFERENCE)
    if rows.empty:
        raise ValueError(
            "There is nothing to draw: no analysis was compared with the linear head. Probe with analyses such as "
            "nearest_mean, knn or mlp."
        )
    axis = LayerAxis.of(layer_names(frame), frame["layer"])
    ends = rows[["value", "low", "high"]].to_numpy(dtype=float)
    low, high = float(pd.Series(ends.ravel()).min()), float(pd.Series(ends.ravel()).max())
    margin = max(0.05 * (high - low), 0.0025)
    domain = (min(low, 0.0) - margin, max(high, 0.0) + margin)
    y = error_y("linear head's error less the other's", alt.Scale(domain=list(domain), nice=False), format="+~%")
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=style.INK, strokeWidth=1).encode(y=y("zero"))
    shape = alt.Shape("shape:N", scale=None)
    points = {"shape": shape, "tooltip": _tips(difference=True)}
    look = Look(alt.Color("colour:N", scale=None), ["reader:N"], points=points)
    layers = [
        zero,
        *curves(
            alt.Chart(rows), axis.x, y, "value", look, interval=("low", "high"), marked=axis.marked,
        ),
        *reader_names(rows, y, domain, _HEIGHT, axis.width),
    ]  # fmt: skip
    samples = frame.loc[frame["checkpoint"] == rows["checkpoint"].iloc[0], "n_test"].max()
    notes = [
        "above 0: the other reads what a linear head does not",
        f"{samples:,} test samples of {rows['caption'].iloc[0]}, 95% interval in pairs",
    ]
    return overlay(layers, axis.width, _HEIGHT, "What a linear head does not read", notes)


def readers(frame: pd.DataFrame, metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Lay out what the analyses that were compared with the linear head measure at the last checkpoint.

    Returns:
        One row for each reader and layer, in order of depth: `position`, `reader` (its name), `colour`, `shape`,
        `value`, `low` and `high`; `baseline_place` is for its name.
    """
    order = frame.loc[frame["test_error"].notna(), "checkpoint_order"]
    last = frame[frame["checkpoint_order"] == order.max()]
    at = last[["checkpoint", "layer", "position", "caption"]]
    rows = compared_errors(metrics, metric)
    names = list(dict.fromkeys(rows["head"]))
    rows = rows[["checkpoint", "layer", "head", "value", "low", "high"]].merge(at, on=["checkpoint", "layer"])
    look = {name: i % len(COLOURS) for i, name in enumerate(names)}
    return rows.assign(
        reader=[reader_name(name) for name in rows["head"]],
        colour=[COLOURS[look[name]] for name in rows["head"]],
        shape=[_SHAPES[look[name]] for name in rows["head"]],
    ).sort_values(["reader", "position"], kind="stable", ignore_index=True)


def reader_name(head: str) -> str:
    """Return what an analysis is called in a chart."""
    return _NAMES.get(head, head.replace("_", " "))


def reader_lines(rows: pd.DataFrame, x: alt.X, y: Y) -> list[alt.Chart]:
    """Draw the errors of readers as thin lines."""
    if rows.empty:
        return []
    line = alt.Chart(rows).mark_line(strokeWidth=1, clip=True)
    colour = alt.Color("colour:N", scale=None)
    return [line.encode(x=x, y=y("value"), color=colour, detail="reader:N", tooltip=_tips())]


def reader_names(rows: pd.DataFrame, y: Y, domain: tuple[float, float], height: int, width: int) -> list[alt.Chart]:
    """Name readers at the right edge, where their lines end; rows with a `baseline_place` have it already."""
    ends = rows.groupby("reader", sort=False).tail(1)
    if "baseline_place" not in ends:
        ends = ends.assign(baseline_place=name_places(ends["value"].tolist(), domain, height))
    text = alt.Chart(ends).mark_text(align="left", baseline="middle", fontSize=10, aria=False)
    at = {"x": alt.value(width + 5), "y": y("baseline_place"), "color": alt.Color("colour:N", scale=None)}
    return [text.encode(**at, text="reader:N")]


def _tips(*, difference: bool = False) -> list[alt.Tooltip]:
    form, title = ("+.2%", "difference") if difference else (".2%", "test error")
    return [
        alt.Tooltip("layer:N"),
        alt.Tooltip("reader:N"),
        alt.Tooltip("value:Q", format=form, title=title),
        alt.Tooltip("low:Q", format=form),
        alt.Tooltip("high:Q", format=form),
    ]
