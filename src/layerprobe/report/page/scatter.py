"""The best layer's test error of each run over a swept value; the brush on it chooses the runs of all views."""

from __future__ import annotations

import altair as alt

from layerprobe.report.page.pickers import CHOSEN, group_scale
from layerprobe.report.page.sources import source
from layerprobe.report.page.tables import Tables
from layerprobe.report.save import AnyChart

DESCRIPTION = (
    "Scatter plot: for each run the test error of the layer that validation prefers at its last whole checkpoint, over "
    "the value of a configuration key. Dragging a rectangle chooses the runs that the other views show."
)

_STATES = ["done", "failed", "unfinished", "interrupted"]
_SHAPES = ["circle", "cross", "triangle-up", "triangle-down"]


def scatter(tables: Tables, *, linked: bool = True, width: int = 330, height: int = 330) -> AnyChart:
    """Draw a point for each run, with the interval of its error.

    Args:
        tables: What the page draws.
        linked: Whether to add the brush.
        width: Pixels.
        height: Pixels.

    Returns:
        The chart; values of the key stand in their order, at equal distances.
    """
    axis = alt.Axis(
        title=None,
        values=alt.ExprRef("sequence(0, length(values_of[swept]), ceil(length(values_of[swept]) / 12))"),
        labelExpr="values_of[swept][datum.value]",
        labelAngle=-30,
        labelLimit=130,
        grid=False,
    )
    x = alt.X(
        "swept_place:Q",
        axis=axis,
        scale=alt.Scale(domain=[{"expr": "-0.5"}, {"expr": "length(values_of[swept]) - 0.5"}], nice=False, zero=False),
    )
    percent = alt.Axis(format="%", tickCount=5, title="test error of the best layer", domain=False, ticks=False)
    y = alt.Y("best_error:Q", axis=percent, scale=alt.Scale(zero=False, padding=8))
    base = (
        alt.Chart(source(tables, "runs"))
        .transform_filter("isValid(datum.best_error)")
        .transform_filter(CHOSEN)
        .transform_calculate(group="datum[colour]", swept_place="datum[swept + '_place'] + datum.offset")
    )
    colour = alt.Color("group:N", scale=group_scale()["color"], legend=None)
    interval = base.mark_rule(strokeWidth=1, opacity=0.5, aria=False).encode(
        x=x, y=alt.Y("best_low:Q", axis=percent), y2="best_high:Q", color=colour
    )
    keys = [alt.Tooltip(f"{k.field}:N", title=k.name) for k in tables.keys if k.field not in ("name", "setting")]
    points = base.mark_point(filled=True, size=60, opacity=0.9, aria=False).encode(
        x=x, y=y,
        color=colour,
        shape=alt.Shape("status:N", scale=alt.Scale(domain=_STATES, range=_SHAPES), legend=None),
        tooltip=[
            alt.Tooltip("name:N", title="run"), *keys, alt.Tooltip("status:N"),
            alt.Tooltip("best_layer:N", title="best layer"),
            alt.Tooltip("best_error:Q", title="test error", format=".2%"),
            alt.Tooltip("best_low:Q", title="95% from", format=".2%"),
            alt.Tooltip("best_high:Q", title="95% to", format=".2%"),
        ],
    )  # fmt: skip
    if linked:
        brush = alt.selection_interval(name="brush", encodings=["x", "y"])
        points = points.encode(opacity=alt.when(brush).then(alt.value(0.95)).otherwise(alt.value(0.2))).add_params(
            brush
        )
    return alt.layer(interval, points).properties(
        width=width,
        height=height,
        description=DESCRIPTION,
        title=alt.TitleParams(
            alt.ExprRef("'Best layer over ' + names_of[swept]"),
            subtitle="drag a rectangle to choose runs, click beside it for all" if linked else "",
        ),
    )
