"""Lines over depth that differ in what they are of, with their names in a legend."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from layerprobe.formatting import interval_texts, number_text
from layerprobe.report import style
from layerprobe.report.charts.curves import Y, curves
from layerprobe.report.charts.layer_axis import LayerAxis
from layerprobe.report.charts.line_legend import legend_of, look_of
from layerprobe.report.charts.overlay import overlay

_HEIGHT = 300


def named_curves(
    rows: pd.DataFrame,
    names: Sequence[str],
    labels: Sequence[str],
    y: Y,
    heading: str,
    notes: Sequence[str],
    *,
    band: pd.DataFrame | None = None,
    percent: bool = False,
) -> alt.LayerChart:
    """Draw a line for each name.

    Args:
        rows: For each line and layer the columns `line`, `layer`, `position`, `value`, and the ends of the interval
            `low` and `high`.
        names: The lines, in the order of the legend; the first is the most conspicuous one.
        labels: Labels of the layers, in the order of depth.
        y: The vertical encoding.
        heading: The title.
        notes: What is written below it.
        band: What chance comes to, in the columns `position`, `value` (or NaN), `low` and `high`.
        percent: Whether the figures are shares.
    """
    lines = style.lines([False] * len(names))
    # A style's last line is its most conspicuous one.
    lines = style.Lines(lines.colours[::-1], lines.fills[::-1], lines.dashes[::-1], lines.shapes[::-1])
    axis = LayerAxis.of(labels, rows["layer"])
    form = ".2%" if percent else ".4g"
    shown = rows.assign(
        colour=rows["line"].map(dict(zip(names, lines.colours, strict=True))),
        text=[number_text(value, form) for value in rows["value"]],
        interval=interval_texts(rows["low"], rows["high"], form),
    )[["line", "layer", "position", "value", "low", "high", "colour", "text", "interval"]]
    layers: list[alt.Chart] = []
    if band is not None and len(band):
        chance = alt.Chart(band[["position", "value", "low", "high"]]).encode(x=axis.x)
        layers.append(chance.mark_area(color=style.QUIET, opacity=0.16, aria=False).encode(y=y("low"), y2="high:Q"))
    tooltip = [
        alt.Tooltip("line:N", title="of"), alt.Tooltip("layer:N"), alt.Tooltip("text:N", title="figure"),
        alt.Tooltip("interval:N", title="95% interval"),
    ]  # fmt: skip
    look = look_of("line", names, lines, legend_of(names, axis.width, most=2), tooltip)
    layers += curves(alt.Chart(shown), axis.x, y, "value", look, interval=("low", "high"), marked=axis.marked)
    return overlay(layers, axis.width, _HEIGHT, heading, notes, room=380)
