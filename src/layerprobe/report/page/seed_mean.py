"""The mean curve of the runs of one setting, with its interval over seeds."""

from __future__ import annotations

import math

import altair as alt

from layerprobe.report.charts.curves import Look, curves, error_y
from layerprobe.report.charts.tooltips import ERROR
from layerprobe.report.page.page_data import PageData
from layerprobe.report.page.parameters import (
    MOST_BANDS,
    MOST_LINES,
    checkpoint_shape,
    group_legend,
    group_scale,
    marker,
)
from layerprobe.report.page.vega_data import chosen_rows, layers_x, with_layers, with_text_fields
from layerprobe.report.page.view_frame import Frame
from layerprobe.statistics.intervals import student_quantile

DESCRIPTION = (
    "Line chart: the mean test error over depth of the runs that differ only in their seed, with Student's 95% "
    "interval of the mean."
)
_QUANTILES = [round(student_quantile(n), 4) for n in range(1, 31)]


def seed_mean(data: PageData, frame: Frame) -> alt.LayerChart:
    """Draw a line for each setting and shown checkpoint: mean ± t · s / √n over the chosen runs.

    A setting with one run, or whose runs all have the same error, has no band.
    """
    x = layers_x(data)
    y = error_y("mean test error", alt.Scale(domainMin=0, nice=True))
    top = "MAX_VALUE" if math.isinf(data.highest_error) else f"{data.highest_error:g}"
    by: list[str | alt.FieldName] = ["group", "setting", "network", "checkpoint", "checkpoint_name", "position"]
    base = (
        with_layers(chosen_rows(data, "rows"), data)
        .transform_filter("isValid(datum.error)")
        .transform_aggregate(
            mean="mean(error)", spread="stdev(error)", runs="count()", layer_text="min(layer_text)", groupby=by
        )
        # Equal errors say nothing of how those of other seeds would vary.
        .transform_calculate(known="datum.runs > 1 && datum.spread > 1e-12 * datum.mean")
        .transform_calculate(
            half=f"datum.known ? {_QUANTILES}[min(datum.runs, {len(_QUANTILES) + 1}) - 2]"
            " * datum.spread / sqrt(datum.runs) : null"
        )
        .transform_calculate(
            low="datum.known ? max(0, datum.mean - datum.half) : null",
            high=f"datum.known ? min({top}, datum.mean + datum.half) : null",
        )
    )
    base = with_text_fields(base, "mean", "low", "high")
    scales = group_scale()
    legend = None if frame.linked else group_legend()
    colour = alt.Color("group:N", scale=scales["color"], legend=legend)
    tooltip = [
        alt.Tooltip("setting:N"),
        alt.Tooltip("checkpoint_name:N", title="checkpoint"),
        alt.Tooltip("layer_text:N", title="layer"),
        alt.Tooltip("runs:Q"),
        alt.Tooltip("error_text:N", title="mean test error"),
        ERROR[1],
    ]
    settings = data.runs["setting"].nunique()
    many, crowd = settings > MOST_BANDS, settings > MOST_LINES
    look = Look(
        colour, ["setting:N", "network:N", "checkpoint:N"],
        {"strokeDash": alt.StrokeDash("group:N", scale=scales["dash"], legend=legend),
         "strokeWidth": alt.value(1 if many else 1.8), "opacity": alt.value(0.3 if crowd else 0.6 if many else 1)},
        {"shape": checkpoint_shape(data, legend=False), "tooltip": tooltip,
         "opacity": alt.value(0) if crowd else marker(data)},
    )  # fmt: skip
    layers = curves(base, x, y, "mean", look, interval=() if many else ("low", "high"))
    return frame.chart(
        layers,
        280,
        DESCRIPTION,
        "Mean over seeds",
        "there is one run of each setting"
        if settings == len(data.runs)
        else "a line for each setting"
        if many
        else "95% interval of the mean (Student)",
    )
