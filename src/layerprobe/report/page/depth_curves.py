"""The depth curves of many runs, with their intervals and the controls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

import altair as alt

from layerprobe.report import style
from layerprobe.report.charts.beyond_linear import COLOURS
from layerprobe.report.charts.curves import Look, Y, curves, error_y
from layerprobe.report.charts.tooltips import result_tooltip
from layerprobe.report.page.page_data import PageData
from layerprobe.report.page.parameters import (
    NARROW,
    POINTED,
    checkpoint_shape,
    group_legend,
    group_scale,
    in_percent,
    long,
    marker,
    means,
    of_many,
    shown_in_title,
)
from layerprobe.report.page.vega_data import chosen_rows, layers_x, with_layers, with_text_fields
from layerprobe.report.page.view_frame import Frame

DESCRIPTION = (
    "Line chart: test error, or another measure that is chosen, on the vertical axis over the depth of the layer, one "
    "line for each run and shown checkpoint, or of many runs a mean with a band, and the controls as thin grey lines, "
    "other readers of the layers as thin coloured ones."
)

_MOST_CONTROLS = 4
_CONTROLS = "controls && measure == 'error'"
_NAMED_AT: Mapping[str, tuple[Literal["left", "center", "right"], str]] = {
    "majority": ("right", "datum.last"),
    "shuffled": ("center", "round((2 * datum.first + datum.last) / 3)"),
    "control_task": ("center", "round((datum.first + 2 * datum.last) / 3)"),
    "untrained": ("left", "datum.first"),
}
"""On which side of which layer a control's name stands: names of unlike controls do not meet."""
_TEXT_HEIGHT = 0.04
"""In units of the test error: 13 pixels of an axis that goes to 100 %, more of a shorter one."""


def depth_curves(data: PageData, frame: Frame) -> alt.LayerChart:
    """Draw a line for each run and shown checkpoint, coloured by the chosen key; of many runs, the mean of each colour.

    Means have a band that holds the middle half of the runs, and the run that the mouse is on is drawn over them. A
    cross on the axis is a failed layer; thin lines are the controls. Curves have points unless they are long.
    """
    share = in_percent(data)
    from_zero = alt.ExprRef("indexof(measure_names[measure], 'error') >= 0 ? 0 : null")
    scale = alt.Scale(zero=False, nice=True, domainMin=from_zero)
    y = error_y(None, scale, format="", labelExpr=f"{share} ? format(datum.value, '~%') : datum.label")
    x = layers_x(data)
    scales, mean = group_scale(), means(data)
    legend = group_legend() if len(data.runs) > 1 else None
    colour = alt.Color("group:N", scale=scales["color"], legend=legend)
    dash = alt.StrokeDash("group:N", scale=scales["dash"], legend=legend)
    shape = checkpoint_shape(data, legend=not long(data))
    by: list[str | alt.FieldName] = ["group", "problem", "network", "checkpoint", "checkpoint_name", "position"]
    together = (
        with_layers(_measured(data, mean), data)
        .transform_filter("isValid(datum.shown)")
        .transform_aggregate(
            mean="mean(shown)", low="q1(shown)", high="q3(shown)", runs="distinct(run)",
            layer_text="min(layer_text)", groupby=by,
        )
    )  # fmt: skip
    together = with_text_fields(together, "mean", "low", "high", share)
    together = together.transform_calculate(mean_text="measure_names[measure] + ' ' + datum.error_text")
    rows = with_layers(_measured(data, f"!{mean} || {POINTED}"), data)
    drawn = f"measure_names[measure] + ' ' + format(datum.shown, {share} ? '.2%' : '.3f')"
    rows = with_text_fields(rows, "error", "low", "high").transform_calculate(shown_text=drawn)
    rows = rows.transform_calculate(l2_text="isValid(datum.l2) ? format(datum.l2, '.2e') : '–'")
    layers = [
        *curves(
            together, x, y, "mean",
            Look(
                colour, ["problem:N", "network:N", "checkpoint:N"], {"strokeDash": dash},
                {"shape": shape, "tooltip": _mean_tooltip(data), "opacity": marker(data)},
            ),
            interval=("low", "high"), between=[*controls(data, x, y), *mean_reader_lines(data, x, y)],
        ),
        *curves(
            rows, x, y, "shown",
            Look(
                colour, ["run:N", "checkpoint:N"],
                {"strokeDash": dash, "strokeWidth": alt.when(POINTED).then(alt.value(4)).otherwise(alt.value(1.8))},
                {
                    "shape": shape, "tooltip": tooltip(data), "opacity": marker(data),
                    "size": alt.when(POINTED).then(alt.value(70)).otherwise(alt.value(30)),
                },
            ),
            interval=("shown_low", "shown_high"), band="intervals", failed=True,
        ),
    ]  # fmt: skip
    which = f"'at ' + {shown_in_title(data)}" + (" + ', by ' + names_of[colour]" if len(data.runs) > 1 else "")
    what = "upper(slice(measure_names[measure], 0, 1)) + slice(measure_names[measure], 1) + ' over depth'"
    title = f"{NARROW} ? [{what}, {which}] : {what} + ' ' + {which}"
    return frame.chart(layers, 330, DESCRIPTION, alt.ExprRef(title), of_many(data))


def _measured(data: PageData, where: str) -> alt.Chart:
    """Choose rows with what is drawn of them, `shown`, `shown_low` and `shown_high`; all of them for the error."""
    rows = chosen_rows(data, "rows", where)
    ends = {f"shown_{end}": f"measure == 'error' ? datum.{end} : datum[measure + '_{end}']" for end in ("low", "high")}
    rows = rows.transform_calculate(shown="measure == 'error' ? datum.error : datum[measure]", **ends)
    return rows.transform_filter("measure == 'error' || isValid(datum.shown)")


def mean_reader_lines(data: PageData, x: alt.X, y: Y) -> list[alt.Chart]:
    """Draw the test errors of other readers of the layers as thin coloured lines, each a mean over the chosen runs."""
    if data.readers.empty:
        return []
    names = list(dict.fromkeys(data.readers["reader"]))
    by: list[str | alt.FieldName] = ["reader", "problem", "network", "checkpoint", "checkpoint_name", "position"]
    rows = with_layers(chosen_rows(data, "readers", "readers && measure == 'error'"), data)
    rows = rows.transform_filter("isValid(datum.error)").transform_aggregate(
        value="mean(error)", runs="distinct(run)", layer_text="min(layer_text)", groupby=by
    )
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    colour = alt.Color("of_reader:N", scale=None)
    rows = rows.transform_calculate(of_reader=f"{json.dumps(colours)}[indexof({json.dumps(names)}, datum.reader)]")
    tooltip = [
        alt.Tooltip("reader:N"),
        alt.Tooltip("checkpoint_name:N", title="checkpoint"),
        alt.Tooltip("layer_text:N", title="layer"),
        alt.Tooltip("value:Q", title="test error", format=".2%"),
        alt.Tooltip("runs:Q", title="mean of runs"),
    ]
    apart = ["reader", "problem", "network", "checkpoint"]
    line = rows.mark_line(strokeWidth=1, clip=True, aria=False).encode(
        x=x, y=y("value"), color=colour, detail=[f"{field}:N" for field in apart], tooltip=tooltip
    )
    # Each reader has its name once, at a layer of its own or the nearest that it has, so that names do not meet.
    share = f"(indexof({json.dumps(names)}, datum.reader) + 0.5) / {len(names)}"
    place = f"datum.first + {share} * (datum.last - datum.first) + 1e-6"  # halfway it is the later one
    name = (
        rows.transform_joinaggregate(
            first="min(position)", last="max(position)", latest="max(checkpoint)", groupby=["reader"]
        )
        .transform_filter("datum.checkpoint == datum.latest")
        .transform_calculate(away=f"abs(datum.position - ({place}))")
        .transform_joinaggregate(nearest="min(away)", groupby=["reader"])
        .transform_filter("datum.away == datum.nearest")
        .transform_aggregate(value="max(value)", groupby=["reader", "of_reader", "position"])
        .mark_text(baseline="bottom", dy=-2, fontSize=10, aria=False)
        .encode(x=x, y=y("value"), color=colour, text="reader:N")
    )
    return [line, name]


def controls(data: PageData, x: alt.X, y: Y) -> list[alt.Chart]:
    """Draw what a curve has to be compared with, as thin grey lines.

    The error of the best constant answer is a line for each problem; those of shuffled labels, of the control task and
    of the untrained network, which depend on the network too, are a line for each setting where these are few, the
    first two at each shown checkpoint. Each is a mean over the chosen runs of its kind alone.
    """
    marks = []
    kept: list[str | alt.FieldName] = ["setting"] if data.runs["setting"].nunique() <= _MOST_CONTROLS else []
    everywhere = with_layers(chosen_rows(data, "rows", _CONTROLS, every_checkpoint=True), data)
    here = with_layers(chosen_rows(data, "rows", _CONTROLS), data)
    sources: list[tuple[alt.Chart, str, list[str | alt.FieldName], list[int]]] = [
        (here, "majority", ["problem"], [1, 0]),
        (here, "shuffled", ["problem", *kept, "network", "checkpoint"], [2, 2]),
        (here, "control_task", ["problem", *kept, "network", "checkpoint"], [4, 2]),
    ]
    if "initial" in data.checkpoints:
        untrained = everywhere.transform_filter(f"datum.checkpoint == {data.checkpoints.index('initial')}")
        untrained = untrained.transform_calculate(untrained="datum.error")
        sources.append((untrained, "untrained", ["problem", *kept, "network"], [6, 3]))
    for chart, column, apart, dash in sources:
        if column in data.rows and not data.rows[column].notna().any():
            continue
        mean = (
            chart.transform_filter(f"isValid(datum.{column})")
            .transform_aggregate(value=f"mean({column})", runs="distinct(run)", groupby=["position", *apart])
            .transform_calculate(kind=_said(column, data))
            .transform_calculate(control="datum.kind + (datum.problem ? ' · ' + datum.problem : '')")
        )
        told = [alt.Tooltip("control:N"), alt.Tooltip("value:Q", title="test error", format=".2%")]
        if "setting" in apart:
            told.insert(1, alt.Tooltip("setting:N"))
        line = mean.mark_line(strokeWidth=1, color=style.QUIET, strokeDash=dash, clip=True, aria=False)
        tooltip = [*told, alt.Tooltip("runs:Q", title="mean of runs")]
        marks.append(line.encode(x=x, y=y("value"), detail=[f"{field}:N" for field in apart], tooltip=tooltip))
        together = data.constant if column == "majority" else column.replace("_", " ")
        marks.append(_control_names(mean, column, apart, together).encode(x=x, y=y("value"), text="control:N"))
    return marks


def _said(column: str, data: PageData) -> str:
    """Say what a control is called, as an expression of Vega: the best constant answer by the problem."""
    if column != "majority" or len(set(data.constants.values())) == 1:
        return json.dumps(data.constant if column == "majority" else column.replace("_", " "))
    return f"{json.dumps(data.constants)}[datum.problem]"


def _control_names(mean: alt.Chart, column: str, apart: list[str | alt.FieldName], together: str) -> alt.Chart:
    """Write the names of a control's lines; those that end within a text's height of the next one have one name.

    Where these are of several kinds, it is `together`.
    """
    side, place = _NAMED_AT[column]
    return (
        mean.transform_joinaggregate(first="min(position)", last="max(position)", groupby=apart)
        .transform_filter(f"datum.position == {place}")
        .transform_window(below="lag(value)", sort=[alt.SortField("value")])
        .transform_calculate(separate=f"isValid(datum.below) && datum.value - datum.below > {_TEXT_HEIGHT} ? 1 : 0")
        .transform_window(place="sum(separate)", sort=[alt.SortField("value")], frame=[None, 0])
        .transform_aggregate(
            value="max(value)", position="max(position)", problems="distinct(problem)", kinds="distinct(kind)",
            one="argmax(value)", groupby=["place"],
        )
        .transform_calculate(kind=f"datum.kinds > 1 ? {json.dumps(together)} : datum.one.kind")
        .transform_calculate(
            control="datum.problems > 1 ? datum.kind + ' · ' + datum.problems + ' problems' : "
            f"{NARROW} ? datum.kind : datum.one.control"
        )
        .mark_text(
            align=side, baseline="bottom", dy=15 if column == "shuffled" else -2, fontSize=10, limit=200,
            color=style.QUIET, aria=False,
        )
    )  # fmt: skip


def _mean_tooltip(data: PageData) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("group:N", title="runs of"),
        alt.Tooltip("checkpoint_name:N", title="checkpoint"),
        alt.Tooltip("layer_text:N", title="layer"),
        alt.Tooltip("runs:Q", title="number of runs"),
        alt.Tooltip("mean_text:N", title="mean"),
        alt.Tooltip("interval:N", title="middle half"),
    ]


def tooltip(data: PageData) -> list[alt.Tooltip]:
    """Return what a point says when it is pointed at."""
    keys = [alt.Tooltip(f"{k.field}:N", title=k.name) for k in data.keys if k.field not in ("name", "setting")]
    drawn = [alt.Tooltip("shown_text:N", title="drawn")] if data.measures else []
    return [alt.Tooltip("run_name:N", title="run"), *keys, *result_tooltip("layer_text", "checkpoint_name"), *drawn]
