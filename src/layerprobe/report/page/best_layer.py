"""The best layer of each run over a swept value; the brush on it chooses the runs of all views."""

from __future__ import annotations

import json

import altair as alt

from layerprobe.report.charts.curves import error_y
from layerprobe.report.charts.layer_axis import LETTER
from layerprobe.report.charts.tooltips import ERROR
from layerprobe.report.page.page_data import ConfigKey, PageData
from layerprobe.report.page.parameters import CHOSEN, CROWD, OF_PROBLEM, POINTED, group_legend, group_scale
from layerprobe.report.page.vega_data import source, with_text_fields
from layerprobe.report.page.view_frame import Frame

DESCRIPTION = (
    "Scatter plot: for each run the test error of the layer that validation prefers at its last whole checkpoint, over "
    "the value of a configuration key. Dragging a rectangle chooses the runs that the other views show."
)

_MOST_LABELS = 12


def best_layer(data: PageData, frame: Frame) -> alt.LayerChart:
    """Draw a point for each run over the swept key, with the interval of its error."""
    x = _swept_x(data)
    y = error_y("test error of the best layer", alt.Scale(zero=False, padding=8))
    base = with_text_fields(
        alt.Chart(source(data, "runs"))
        .transform_filter("isValid(datum.best_error)")
        .transform_filter(CHOSEN)
        .transform_filter(OF_PROBLEM)
        .transform_calculate(group="datum[colour]", swept_place="datum[swept + '_place'] + datum.offset"),
        "best_error", "best_low", "best_high",
    )  # fmt: skip
    scales = group_scale()
    legend = group_legend({"symbolSize": 60})
    crowd = len(data.runs) > CROWD
    crowd_opacity = 0.5 if crowd else 0.95
    interval = base.mark_rule(strokeWidth=1.2, opacity=0.08 if crowd else 0.6, aria=False).encode(
        x=x, y=y("best_low"), y2="best_high:Q",
        color=alt.Color("group:N", scale=scales["color"], legend=legend),
    )  # fmt: skip
    keys = [alt.Tooltip(f"{k.field}:N", title=k.name) for k in data.keys if k.field not in ("name", "setting")]
    points = base.mark_point(filled=True, opacity=crowd_opacity, strokeWidth=1.5, aria=False).encode(
        x=x, y=y("best_error"),
        color=alt.Color("group:N", scale=scales["color"], legend=legend),
        stroke=alt.Stroke("group:N", scale=scales["color"], legend=legend),
        shape=alt.Shape("group:N", scale=scales["shape"], legend=legend),
        size=alt.when(POINTED).then(alt.value(220)).otherwise(alt.value(20 if crowd else 60)),
        fillOpacity=alt.when("datum.status == 'done'").then(alt.value(1)).otherwise(alt.value(0)),
        tooltip=[
            alt.Tooltip("name:N", title="run"), *keys, alt.Tooltip("status:N"),
            alt.Tooltip("best_layer:N", title="best layer"),
            *ERROR,
        ],
    )  # fmt: skip
    if frame.linked:
        brush = alt.selection_interval(name="brush", encodings=["x", "y"])
        points = points.encode(
            opacity=alt.when(brush).then(alt.value(crowd_opacity)).otherwise(alt.value(0.2))
        ).add_params(brush)
    notes = ["drag to choose runs, click for all"] if frame.linked else []
    if (data.runs["status"] != "done").any():
        notes.append("hollow: not done")
    return frame.chart([interval, points], 330, DESCRIPTION, alt.ExprRef("'Best layer over ' + names_of[swept]"), notes)


def _swept_x(data: PageData) -> alt.X:
    """Place the values of the key in their order, at equal distances, level where they fit."""
    level = f"{json.dumps({key.field: _needed(key) for key in data.keys})}[swept] <= width"
    axis = alt.Axis(
        title=None,
        values=alt.ExprRef(f"sequence(0, length(values_of[swept]), ceil(length(values_of[swept]) / {_MOST_LABELS}))"),
        labelExpr="values_of[swept][datum.value]",
        labelAngle=alt.ExprRef(f"{level} ? 0 : -30"),
        labelAlign=alt.ExprRef(f"{level} ? 'center' : 'right'"),
        labelBaseline="top",
        labelLimit=130,
        grid=False,
    )
    return alt.X(
        "swept_place:Q",
        axis=axis,
        scale=alt.Scale(domain=[{"expr": "-0.5"}, {"expr": "length(values_of[swept]) - 0.5"}], nice=False, zero=False),
    )


def _needed(key: ConfigKey) -> float:
    """Estimate the pixels in which the values of a key stand level below the axis without touching."""
    shown = len(key.values) / -(-len(key.values) // _MOST_LABELS)
    return shown * (LETTER * max(map(len, key.values)) + 8)
