"""Lines over depth by name: other readers against the linear head, and reducers against one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from layerprobe.report import style
from layerprobe.report.charts.beyond_linear import COLOURS
from layerprobe.report.charts.curves import Look, Y, curves, error_y
from layerprobe.report.page.page_data import PageData
from layerprobe.report.page.parameters import checkpoint_shape, marker
from layerprobe.report.page.vega_data import chosen_rows, layers_x, with_layers
from layerprobe.report.page.view_frame import Frame

_BEYOND_LINEAR = (
    "Line chart: the linear head's test error less that of other readers, such as nearest neighbours, over the depth "
    "of the layer; of one run with its 95% interval in pairs, of several the mean."
)
_REDUCERS = (
    "Line chart: the lowest validation error on the path of each reducer over the depth of the layer, a mean over the "
    "chosen runs of one network on the same data."
)
_LEGEND = alt.Legend(title=None, orient="bottom", symbolType="stroke", symbolSize=500, symbolStrokeWidth=2)


def beyond_linear_curves(data: PageData, frame: Frame) -> alt.LayerChart:
    """Draw a line for each reader and shown checkpoint: above 0, it reads what a linear head does not."""
    y = error_y("linear head's error less the other's", alt.Scale(zero=True, nice=True), format="+~%")
    zero = alt.Chart(alt.InlineData([{"zero": 0}])).mark_rule(color=style.INK, strokeWidth=1, aria=False)
    layers = _curves(
        data, "readers", "reader", alt.Tooltip("mean:Q", title="difference", format="+.2%"), y, COLOURS,
        of_runs={"mean": "mean(difference)", "low": "min(low)", "high": "max(high)"},
        interval=("low", "high"), band="intervals && datum.runs == 1", between=[zero.encode(y=y("zero"))],
    )  # fmt: skip
    note = "above 0: the other reads what a linear head does not"
    return frame.chart(layers, 280, _BEYOND_LINEAR, "What a linear head does not read", note)


def reducer_curves(data: PageData, frame: Frame) -> alt.LayerChart:
    """Draw a line for each reducer and shown checkpoint: what its best head came to on validation."""
    y = error_y("validation error", alt.Scale(domainMin=0, nice=True))
    tooltip = alt.Tooltip("mean:Q", title="validation error", format=".2%")
    names = list(dict.fromkeys(data.reducers["reducer"]))
    dashes = alt.Scale(domain=names, range=[list(dash) for dash in style.DASHES])
    layers = _curves(
        data, "reducers", "reducer", tooltip, y, style.TRAINED, of_runs={"mean": "mean(val_error)"},
        line={"strokeDash": alt.StrokeDash("reducer:N", scale=dashes, legend=_LEGEND)},
    )  # fmt: skip
    note = "the test split is read by the chosen head alone"
    return frame.chart(layers, 280, _REDUCERS, "Validation error by reducer", note)


def _curves(
    data: PageData,
    table: str,
    name: str,
    mean: alt.Tooltip,
    y: Y,
    colours: Sequence[str],
    *,
    of_runs: Mapping[str, Any],
    line: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[alt.Chart]:
    """Draw a line for each name and shown checkpoint, of what the chosen runs come to."""
    by: list[str | alt.FieldName] = [name, "problem", "network", "checkpoint", "checkpoint_name", "position"]
    rows = with_layers(chosen_rows(data, table), data).transform_aggregate(
        **of_runs, runs="distinct(run)", layer_text="min(layer_text)", groupby=by
    )
    scale = alt.Scale(domain=list(dict.fromkeys(getattr(data, table)[name])), range=list(colours))
    tooltip = [
        alt.Tooltip(f"{name}:N"),
        alt.Tooltip("checkpoint_name:N", title="checkpoint"),
        alt.Tooltip("layer_text:N", title="layer"),
        mean,
        alt.Tooltip("runs:Q"),
    ]
    points = {"shape": checkpoint_shape(data, legend=False), "tooltip": tooltip, "opacity": marker(data)}
    colour = alt.Color(f"{name}:N", scale=scale, legend=_LEGEND)
    look = Look(colour, ["problem:N", "network:N", "checkpoint:N"], line or {}, points)
    return curves(rows, layers_x(data), y, "mean", look, **options)
