"""The validation error of each reducer over depth, where runs chose between several."""

from __future__ import annotations

import altair as alt

from layerprobe.report import style
from layerprobe.report.charts.curves import Look, curves, error_y
from layerprobe.report.page.frame import Frame
from layerprobe.report.page.page_data import PageData
from layerprobe.report.page.pickers import checkpoint_shape, marker
from layerprobe.report.page.vega_data import chosen_rows, layers_x, with_layers

DESCRIPTION = (
    "Line chart: the lowest validation error on the path of each reducer over the depth of the layer, a mean over the "
    "chosen runs of one network on the same data."
)


def reducer_curves(data: PageData, frame: Frame) -> alt.LayerChart:
    """Draw a line for each reducer and shown checkpoint: what its best head came to on validation."""
    names = list(dict.fromkeys(data.reducers["reducer"]))
    by: list[str | alt.FieldName] = ["reducer", "problem", "network", "checkpoint", "checkpoint_name", "position"]
    rows = with_layers(chosen_rows(data, "reducers"), data).transform_aggregate(
        mean="mean(val_error)", runs="distinct(run)", layer_text="min(layer_text)", groupby=by
    )
    legend = alt.Legend(title=None, orient="bottom", symbolType="stroke", symbolSize=500, symbolStrokeWidth=2)
    colour = alt.Color("reducer:N", scale=alt.Scale(domain=names, range=list(style.TRAINED)), legend=legend)
    dash = alt.StrokeDash(
        "reducer:N", scale=alt.Scale(domain=names, range=[list(d) for d in style.DASHES]), legend=legend
    )
    tooltip = [
        alt.Tooltip("reducer:N"),
        alt.Tooltip("checkpoint_name:N", title="checkpoint"),
        alt.Tooltip("layer_text:N", title="layer"),
        alt.Tooltip("mean:Q", title="validation error", format=".2%"),
        alt.Tooltip("runs:Q"),
    ]
    points = {"shape": checkpoint_shape(data, legend=False), "tooltip": tooltip, "opacity": marker(data)}
    look = Look(colour, ["problem:N", "network:N", "checkpoint:N"], {"strokeDash": dash}, points)
    y = error_y("validation error", alt.Scale(domainMin=0, nice=True))
    layers = curves(rows, layers_x(data), y, "mean", look)
    return frame.chart(
        layers, 280, DESCRIPTION, "Validation error by reducer", "the test split is read by the chosen head alone"
    )
