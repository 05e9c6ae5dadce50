"""The regularisation path of one layer in many runs."""

from __future__ import annotations

import json

import altair as alt

from layerprobe.report.charts.curves import Look, curves, error_y
from layerprobe.report.charts.l2_path import CHOSEN_HEAD
from layerprobe.report.layer_labels import clipped
from layerprobe.report.page.page_data import PageData
from layerprobe.report.page.parameters import NARROW, POINTED, faint, group_legend, group_scale, means, of_many
from layerprobe.report.page.vega_data import chosen_rows
from layerprobe.report.page.view_frame import Frame

DESCRIPTION = (
    "Line chart: validation error over L2 of the chosen layer, one line for each run and shown checkpoint, or of many "
    "runs a mean with a band; a point marks the head that validation chose."
)

_MOST_LETTERS = 34
"""Of a layer's name in the title."""
_POWER = "log(datum.value) / LN10"
_POWERS = f"abs({_POWER} - round({_POWER})) < 1e-6 ? (datum.value < 5e-9 ? '0' : '1e' + round({_POWER})) : ''"


def l2_path(data: PageData, frame: Frame) -> alt.LayerChart:
    """Draw validation error over L2 for the chosen layer.

    Returns:
        The chart; L2 = 0 stands a decade below 1e-8. Of many runs, each colour has the mean with a band that holds the
        middle half, and the run that the mouse is on is drawn over them.
    """
    x = alt.X(
        "place:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(title="L2", grid=False, labelOverlap=True, labelExpr=_POWERS),
    )
    y = error_y("validation error", alt.Scale(zero=False, padding=6))
    mean = means(data)
    name = f"{json.dumps([clipped(name, _MOST_LETTERS) for name in data.layer_names])}[layer]"
    base = (
        chosen_rows(data, "paths", "datum.layer_name == layer")
        .transform_calculate(heads_l2="split(datum.l2, ' ')", heads_error="split(datum.val_error, ' ')")
        .transform_calculate(place_in_path="sequence(length(datum.heads_l2))")
        .transform_flatten(["heads_l2", "heads_error", "place_in_path"])
        .transform_calculate(heads_l2="toNumber(datum.heads_l2)", heads_error="toNumber(datum.heads_error)")
        .transform_calculate(place="datum.heads_l2 > 0 ? datum.heads_l2 : 1e-9")
    )
    scales = group_scale()
    legend = None if frame.linked or len(data.runs) == 1 else group_legend()
    colour = alt.Color("group:N", scale=scales["color"], legend=legend)
    dash = alt.StrokeDash("group:N", scale=scales["dash"], legend=legend)
    tooltip = [
        alt.Tooltip("run_name:N", title="run"),
        alt.Tooltip("checkpoint_name:N", title="checkpoint"),
        *([alt.Tooltip("way:N", title="head")] if data.paths["way"].any() else []),
        alt.Tooltip("heads_l2:Q", title="l2", format=".2e"),
        alt.Tooltip("heads_error:Q", title="validation error", format=".2%"),
    ]
    together = base.transform_filter(mean).transform_aggregate(
        mean="mean(heads_error)", low="q1(heads_error)", high="q3(heads_error)", runs="distinct(run)",
        groupby=["group", "problem", "checkpoint", "checkpoint_name", "place"],
    )  # fmt: skip
    of_mean = [
        alt.Tooltip("group:N", title="runs of"),
        alt.Tooltip("checkpoint_name:N", title="checkpoint"),
        alt.Tooltip("runs:Q", title="number of runs"),
        alt.Tooltip("place:Q", title="l2", format=".2e"),
        alt.Tooltip("mean:Q", title="mean validation error", format=".2%"),
    ]
    points = {"opacity": alt.value(0), "tooltip": of_mean}
    look = Look(colour, ["problem:N", "checkpoint:N"], {"strokeDash": dash}, points)
    layers = [] if len(data.runs) == 1 else curves(together, x, y, "mean", look, interval=("low", "high"))
    width = alt.when(POINTED).then(alt.value(4)).otherwise(alt.value(1.8))
    line = {"strokeDash": dash, "strokeWidth": width, "opacity": faint(data)}
    look = Look(colour, ["run:N", "checkpoint:N", "way:N"], line, {"tooltip": tooltip, **CHOSEN_HEAD})
    each = base.transform_filter(f"!{mean} || {POINTED}")
    layers += curves(each, x, y, "heads_error", look, marked="datum.place_in_path == datum.selected")
    return frame.chart(
        layers,
        280,
        DESCRIPTION,
        alt.ExprRef(f"{NARROW} ? ['L2 path of', {name}] : 'L2 path of ' + {name}"),
        of_many(data),
    )
