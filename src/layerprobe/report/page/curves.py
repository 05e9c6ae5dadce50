"""Test error over depth of many runs, with their intervals and the controls."""

from __future__ import annotations

from typing import Literal

import altair as alt

from layerprobe.report import style
from layerprobe.report.page.datasets import TEXTS, chosen_rows, layer_x, with_layers, with_texts
from layerprobe.report.page.page_data import Tables
from layerprobe.report.page.pickers import group_legend, group_scale
from layerprobe.report.picture_files import AnyChart

DESCRIPTION = (
    "Line chart: test error on the vertical axis over the depth of the layer, one line for each run and shown "
    "checkpoint, with 95% intervals and the controls as thin lines. The same numbers are in report.csv."
)

_TEXT_HEIGHT = 0.04
"""In units of the test error: 13 pixels of an axis that goes to 100 %, more of a shorter one."""


def curves(tables: Tables, *, linked: bool = True, width: int = 620, height: int = 330) -> AnyChart:
    """Draw a line for each run and shown checkpoint, coloured by the chosen key.

    Args:
        tables: What the page draws.
        linked: Whether the page's brush chooses runs.
        width: Pixels.
        height: Pixels.

    Returns:
        The chart. A cross on the axis is a failed layer; thin lines are the controls.
    """
    x = layer_x(tables, width)
    percent = alt.Axis(format="%", tickCount=6, title="test error", domain=False, ticks=False)
    y = alt.Y("error:Q", axis=percent, scale=alt.Scale(domainMin=0))
    scales = group_scale()
    legend = group_legend(width)
    colour = alt.Color("group:N", scale=scales["color"], legend=legend)
    dash = alt.StrokeDash("group:N", scale=scales["dash"], legend=legend)
    line = ["run:N", "checkpoint:N"]
    base = with_texts(with_layers(chosen_rows(tables, "rows", linked=linked), tables), "error", "low", "high")
    base = base.transform_calculate(l2_text="isValid(datum.l2) ? format(datum.l2, '.2e') : '–'")
    usable = base.transform_filter("isValid(datum.error)")
    band = (
        usable.transform_filter("intervals && isValid(datum.low) && isValid(datum.high)")
        .mark_area(opacity=0.13, clip=True, aria=False)
        .encode(
            x=x, y=alt.Y("low:Q", axis=percent), y2="high:Q", color=alt.Color("group:N", scale=scales["color"]),
            detail=line,
        )
    )  # fmt: skip
    over = alt.selection_point(name="pointed", fields=["run"], on="pointerover", clear="pointerout", empty=False)
    lines = usable.mark_line(aria=False, clip=True).encode(
        x=x, y=y, color=colour, strokeDash=dash, detail=line,
        strokeWidth=alt.when(over).then(alt.value(4)).otherwise(alt.value(1.6)),
    )  # fmt: skip
    shape = alt.Shape(
        "checkpoint_name:N",
        scale=alt.Scale(domain=list(tables.checkpoints), range=list(style.SHAPES)),
        legend=alt.Legend(title=None, orient="bottom", symbolFillColor=style.QUIET, symbolStrokeColor=style.QUIET)
        if len(tables.checkpoints) > 1
        else None,
    )
    points = (
        usable.mark_point(filled=True, size=26, opacity=0.9, clip=True, aria=False)
        .encode(
            x=x, y=y, color=colour, shape=shape, detail=line, tooltip=tooltip(tables),
            size=alt.when(over).then(alt.value(70)).otherwise(alt.value(26)),
        )
        .add_params(over)
    )  # fmt: skip
    failed = (
        base.transform_filter("!isValid(datum.error)")
        .transform_calculate(zero="0")
        .mark_text(text="×", fontSize=15, dy=-7, aria=False)
        .encode(x=x, y=alt.Y("zero:Q", axis=percent), color=colour, tooltip=tooltip(tables))
    )
    return alt.layer(band, *controls(tables, x, percent, linked), lines, points, failed).properties(
        width=width,
        height=height,
        description=DESCRIPTION,
        title=alt.TitleParams(alt.ExprRef("'Test error over depth, by ' + names_of[colour]")),
    )


def controls(tables: Tables, x: alt.X, percent: alt.Axis, linked: bool) -> list[alt.Chart]:
    """Draw what a curve has to be compared with, as thin grey lines.

    The majority's error is a line for each problem; those of shuffled labels, of the control task and of the untrained
    network, which depend on the network too, are a line for each setting, the first two at each shown checkpoint. Each
    is a mean over the chosen runs of its kind alone.
    """
    marks = []
    everywhere = with_layers(chosen_rows(tables, "rows", linked=linked, every_checkpoint=True), tables)
    here = with_layers(chosen_rows(tables, "rows", linked=linked), tables)
    sources: list[tuple[alt.Chart, str, list[str | alt.FieldName], list[int], Literal["left", "right"]]] = [
        (here, "majority", ["problem"], [1, 0], "right"),
        (here, "shuffled", ["problem", "setting", "network", "checkpoint"], [2, 2], "left"),
        (here, "control_task", ["problem", "setting", "network", "checkpoint"], [4, 2], "left"),
    ]
    if "initial" in tables.checkpoints:
        untrained = everywhere.transform_filter(f"datum.checkpoint == {tables.checkpoints.index('initial')}")
        untrained = untrained.transform_calculate(untrained="datum.error")
        sources.append((untrained, "untrained", ["problem", "setting", "network"], [6, 3], "left"))
    for chart, column, apart, dash, side in sources:
        if column in tables.rows and not tables.rows[column].notna().any():
            continue
        kind = column.replace("_", " ")
        mean = (
            chart.transform_filter(f"controls && isValid(datum.{column})")
            .transform_aggregate(value=f"mean({column})", runs="distinct(run)", groupby=["position", *apart])
            .transform_calculate(control=f"'{kind}' + (datum.problem ? ' · ' + datum.problem : '')")
        )
        y = alt.Y("value:Q", axis=percent)
        told = [alt.Tooltip("control:N"), alt.Tooltip("value:Q", title="test error", format=".2%")]
        if "setting" in apart:
            told.insert(1, alt.Tooltip("setting:N"))
        marks.append(
            mean.mark_line(strokeWidth=1, color=style.QUIET, strokeDash=dash, clip=True, aria=False).encode(
                x=x, y=y, detail=[f"{field}:N" for field in apart],
                tooltip=[*told, alt.Tooltip("runs:Q", title="mean of runs")],
            )
        )  # fmt: skip
        # Lines that end within a text's height of the next one have one name.
        marks.append(
            mean.transform_joinaggregate(end=f"{'max' if side == 'right' else 'min'}(position)", groupby=apart)
            .transform_filter("datum.position == datum.end")
            .transform_window(below="lag(value)", sort=[alt.SortField("value")])
            .transform_calculate(separate=f"isValid(datum.below) && datum.value - datum.below > {_TEXT_HEIGHT} ? 1 : 0")
            .transform_window(place="sum(separate)", sort=[alt.SortField("value")], frame=[None, 0])
            .transform_aggregate(
                value="max(value)",
                position="max(position)",
                problems="distinct(problem)",
                one="argmax(value)",
                groupby=["place"],
            )
            .transform_calculate(
                control=f"datum.problems > 1 ? '{kind} · ' + datum.problems + ' problems' : datum.one.control"
            )
            .mark_text(align=side, baseline="bottom", dy=-2, fontSize=10, limit=200, color=style.QUIET, aria=False)
            .encode(x=x, y=y, text="control:N")
        )
    return marks


def tooltip(tables: Tables) -> list[alt.Tooltip]:
    """Return what a point says when it is pointed at."""
    keys = [alt.Tooltip(f"{k.field}:N", title=k.name) for k in tables.keys if k.field not in ("name", "setting")]
    return [
        alt.Tooltip("run_name:N", title="run"),
        *keys,
        alt.Tooltip("checkpoint_name:N", title="checkpoint"),
        alt.Tooltip("step:Q", format=",d"),
        alt.Tooltip("layer_text:N", title="layer"),
        alt.Tooltip("depth:Q"),
        alt.Tooltip("kind:N"),
        alt.Tooltip("shape:N"),
        alt.Tooltip("features:N"),
        alt.Tooltip("l2_text:N", title="l2"),
        *TEXTS,
        alt.Tooltip("status:N"),
    ]
