"""The differences of other readers from the linear head over depth, where runs have such analyses."""

from __future__ import annotations

import altair as alt

from layerprobe.report import style
from layerprobe.report.charts.beyond_linear import COLOURS
from layerprobe.report.charts.curves import Look, curves, error_y
from layerprobe.report.page.frame import Frame
from layerprobe.report.page.page_data import PageData
from layerprobe.report.page.pickers import checkpoint_shape, marker
from layerprobe.report.page.vega_data import chosen_rows, layers_x, with_layers

DESCRIPTION = (
    "Line chart: the linear head's test error less that of other readers, such as nearest neighbours, over the depth "
    "of the layer; of one run with its 95% interval in pairs, of several the mean."
)


def beyond_linear_curves(data: PageData, frame: Frame) -> alt.LayerChart:
    """Draw a line for each reader and shown checkpoint: above 0, it reads what a linear head does not."""
    names = list(dict.fromkeys(data.readers["reader"]))
    by: list[str | alt.FieldName] = ["reader", "problem", "network", "checkpoint", "checkpoint_name", "position"]
    rows = with_layers(chosen_rows(data, "readers"), data).transform_aggregate(
        mean="mean(difference)", low="min(low)", high="max(high)", runs="distinct(run)",
        layer_text="min(layer_text)", groupby=by,
    )  # fmt: skip
    legend = alt.Legend(title=None, orient="bottom", symbolType="stroke", symbolSize=500, symbolStrokeWidth=2)
    colour = alt.Color("reader:N", scale=alt.Scale(domain=names, range=list(COLOURS)), legend=legend)
    y = error_y("linear head's error less the other's", alt.Scale(zero=True, nice=True), format="+~%")
    tooltip = [
        alt.Tooltip("reader:N"),
        alt.Tooltip("checkpoint_name:N", title="checkpoint"),
        alt.Tooltip("layer_text:N", title="layer"),
        alt.Tooltip("mean:Q", title="difference", format="+.2%"),
        alt.Tooltip("runs:Q"),
    ]
    zero = alt.Chart(alt.InlineData([{"zero": 0}])).mark_rule(color=style.INK, strokeWidth=1, aria=False)
    points = {"shape": checkpoint_shape(data, legend=False), "tooltip": tooltip, "opacity": marker(data)}
    layers = curves(
        rows, layers_x(data), y, "mean", Look(colour, ["problem:N", "network:N", "checkpoint:N"], points=points),
        interval=("low", "high"), band="intervals && datum.runs == 1", between=[zero.encode(y=y("zero"))],
    )  # fmt: skip
    return frame.chart(
        layers,
        280,
        DESCRIPTION,
        "What a linear head does not read",
        "above 0: the other reads what a linear head does not",
    )
