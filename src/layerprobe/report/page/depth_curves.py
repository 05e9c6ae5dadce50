"""The depth curves of many runs, with their intervals and the controls."""

from __future__ import annotations

from typing import Literal

import altair as alt

from layerprobe.report import style
from layerprobe.report.charts.curves import Y, curves, error_y
from layerprobe.report.charts.tooltips import result_tooltip
from layerprobe.report.page.datasets import chosen_rows, layers_x, with_layers, with_texts
from layerprobe.report.page.page_data import PageData
from layerprobe.report.page.pickers import checkpoint_shape, group_legend, group_scale
from layerprobe.report.picture_files import AnyChart

DESCRIPTION = (
    "Line chart: test error on the vertical axis over the depth of the layer, one line for each run and shown "
    "checkpoint, with 95% intervals and the controls as thin lines. The same numbers are in report.csv."
)

_TEXT_HEIGHT = 0.04
"""In units of the test error: 13 pixels of an axis that goes to 100 %, more of a shorter one."""


def depth_curves(data: PageData, *, linked: bool = True, width: int = 620, height: int = 330) -> AnyChart:
    """Draw a line for each run and shown checkpoint, coloured by the chosen key.

    Args:
        data: What the page draws.
        linked: Whether the page's brush chooses runs.
        width: Pixels.
        height: Pixels.

    Returns:
        The chart. A cross on the axis is a failed layer; thin lines are the controls.
    """
    x = layers_x(data, width)
    y = error_y("test error", alt.Scale(domainMin=0, nice=True))
    scales, legend = group_scale(), group_legend(width)
    rows = with_texts(with_layers(chosen_rows(data, "rows", linked=linked), data), "error", "low", "high")
    rows = rows.transform_calculate(l2_text="isValid(datum.l2) ? format(datum.l2, '.2e') : '–'")
    over = alt.selection_point(name="pointed", fields=["run"], on="pointerover", clear="pointerout", empty=False)
    layers = curves(
        rows, x, y, "error", colour=alt.Color("group:N", scale=scales["color"], legend=legend),
        detail=["run:N", "checkpoint:N"], interval=("low", "high"), band="intervals", failed=True,
        between=controls(data, x, y, linked),
        line={
            "strokeDash": alt.StrokeDash("group:N", scale=scales["dash"], legend=legend),
            "strokeWidth": alt.when(over).then(alt.value(4)).otherwise(alt.value(1.8)),
        },
        points={
            "shape": checkpoint_shape(data, legend=True), "tooltip": tooltip(data),
            "size": alt.when(over).then(alt.value(70)).otherwise(alt.value(30)),
        },
    )  # fmt: skip
    layers[-2] = layers[-2].add_params(over)
    return alt.layer(*layers).properties(
        width=width,
        height=height,
        description=DESCRIPTION,
        title=alt.TitleParams(alt.ExprRef("'Test error over depth, by ' + names_of[colour]")),
    )


def controls(data: PageData, x: alt.X, y: Y, linked: bool) -> list[alt.Chart]:
    """Draw what a curve has to be compared with, as thin grey lines.

    The majority's error is a line for each problem; those of shuffled labels, of the control task and of the untrained
    network, which depend on the network too, are a line for each setting, the first two at each shown checkpoint. Each
    is a mean over the chosen runs of its kind alone.
    """
    marks = []
    everywhere = with_layers(chosen_rows(data, "rows", linked=linked, every_checkpoint=True), data)
    here = with_layers(chosen_rows(data, "rows", linked=linked), data)
    sources: list[tuple[alt.Chart, str, list[str | alt.FieldName], list[int], Literal["left", "right"]]] = [
        (here, "majority", ["problem"], [1, 0], "right"),
        (here, "shuffled", ["problem", "setting", "network", "checkpoint"], [2, 2], "left"),
        (here, "control_task", ["problem", "setting", "network", "checkpoint"], [4, 2], "left"),
    ]
    if "initial" in data.checkpoints:
        untrained = everywhere.transform_filter(f"datum.checkpoint == {data.checkpoints.index('initial')}")
        untrained = untrained.transform_calculate(untrained="datum.error")
        sources.append((untrained, "untrained", ["problem", "setting", "network"], [6, 3], "left"))
    for chart, column, apart, dash, side in sources:
        if column in data.rows and not data.rows[column].notna().any():
            continue
        kind = column.replace("_", " ")
        mean = (
            chart.transform_filter(f"controls && isValid(datum.{column})")
            .transform_aggregate(value=f"mean({column})", runs="distinct(run)", groupby=["position", *apart])
            .transform_calculate(control=f"'{kind}' + (datum.problem ? ' · ' + datum.problem : '')")
        )
        told = [alt.Tooltip("control:N"), alt.Tooltip("value:Q", title="test error", format=".2%")]
        if "setting" in apart:
            told.insert(1, alt.Tooltip("setting:N"))
        marks.append(
            mean.mark_line(strokeWidth=1, color=style.QUIET, strokeDash=dash, clip=True, aria=False).encode(
                x=x, y=y("value"), detail=[f"{field}:N" for field in apart],
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
            .encode(x=x, y=y("value"), text="control:N")
        )
    return marks


def tooltip(data: PageData) -> list[alt.Tooltip]:
    """Return what a point says when it is pointed at."""
    keys = [alt.Tooltip(f"{k.field}:N", title=k.name) for k in data.keys if k.field not in ("name", "setting")]
    return [alt.Tooltip("run_name:N", title="run"), *keys, *result_tooltip("layer_text", "checkpoint_name")]
