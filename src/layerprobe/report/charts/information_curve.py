"""Information over depth: the bits that a layer's features say about the labels, and how they compress them."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import pandas as pd

from layerprobe.formatting import interval_texts, number_text
from layerprobe.report.charts.baselines import baseline_lines, baseline_rows
from layerprobe.report.charts.curves import curves, error_y
from layerprobe.report.charts.layer_axis import LayerAxis, layer_names
from layerprobe.report.charts.line_legend import checkpoint_lines
from layerprobe.report.charts.overlay import overlay
from layerprobe.report.tidy import tidy_results
from layerprobe.results.baselines import of_baselines, without_baselines

_HEIGHT = 300


@dataclass(frozen=True)
class Figure:
    """What a curve shows: the metric of an analysis, the one that it is compared with, and where its axis begins."""

    analysis: str
    metric: str
    title: str
    axis: str
    note: str
    baseline: str
    baseline_name: str
    floor: float


V_INFORMATION = Figure(
    "v_information", "v_information", "Bits that a linear head reads", "V-information, bits",
    "H(Y) - H(Y | X) on test, 95% interval over its samples", "entropy", "all there are", 0.0,
)  # fmt: skip
COMPRESSION = Figure(
    "description_length", "compression", "Compression of the labels by the online code", "compression",
    "training labels, coded block by block; 1: equal classes, no features", "prior_compression", "class frequencies",
    0.95,
)  # fmt: skip


def information_curve(metrics: pd.DataFrame, figure: Figure = V_INFORMATION) -> alt.LayerChart:
    """Draw V-information, or how much shorter the labels become, over depth: a line for each checkpoint.

    Returns:
        The chart, of the first of several test sets, with thin lines at the bits that there are, or at what the
        frequencies of the classes reach alone, and at what the baselines of the data come to.

    Raises:
        ValueError: If the analysis was not made.
    """
    rows = rows_of(metrics, figure.analysis, figure.metric)
    frame = tidy_results(without_baselines(rows))
    frame["text"] = [number_text(value, ".3f") for value in frame["value"]]
    frame["interval"] = interval_texts(frame["low"], frame["high"], ".3f")
    axis = LayerAxis.of(layer_names(frame), frame["layer"])

    known = rows_of(metrics, figure.analysis, figure.baseline)["value"].round(4).unique().tolist()
    beside = {f"{figure.baseline_name} {value:.2f}": value for value in sorted(known)}
    alone = rows[of_baselines(rows)].set_index("checkpoint")["value"]
    beside |= {f"{str(name).replace('_', ' ')} {value:.2f}": float(value) for name, value in alone.items()}
    top = 1.05 * max([float(frame[["value", "high"]].max().max()), *beside.values()])
    bottom = min([figure.floor, float(frame[["value", "low"]].min().min()), *beside.values()])
    y = error_y(figure.axis, alt.Scale(domain=[bottom, top], nice=False, zero=False), format="~g")
    tooltip = [
        alt.Tooltip("caption:N", title="checkpoint"),
        alt.Tooltip("layer:N"),
        alt.Tooltip("depth:Q"),
        alt.Tooltip("text:N", title=figure.axis),
        alt.Tooltip("interval:N", title="95% interval"),
    ]
    frame, look = checkpoint_lines(frame, axis.width, tooltip)
    columns = ["position", "caption", "colour", "layer", "depth", "value", "low", "high", "text", "interval"]
    panel = alt.Chart(baseline_rows(beside, (bottom, top), _HEIGHT))
    layers = curves(
        alt.Chart(frame[columns]), axis.x, y, "value", look, interval=("low", "high"),
        band="isValid(datum.low)", between=baseline_lines(panel, y, axis.width), marked=axis.marked,
    )  # fmt: skip
    return overlay(layers, axis.width, _HEIGHT, figure.title, [figure.note])


def rows_of(metrics: pd.DataFrame, analysis: str, metric: str) -> pd.DataFrame:
    """Take the rows of one metric, of the first test set where there are several.

    Raises:
        ValueError: If there are none.
    """
    rows = metrics[(metrics["head"] == analysis) & (metrics["metric"] == metric) & metrics["value"].notna()]
    if rows.empty:
        raise ValueError(
            f"There is nothing to draw: no layer has the metric {metric!r}. Probe with analysis={analysis}."
        )
    return rows[rows["test_set"] == rows["test_set"].iloc[0]]
