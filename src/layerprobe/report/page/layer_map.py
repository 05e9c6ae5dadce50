"""The heat map of many runs: layers by checkpoints, averaged over the chosen runs of one network and one problem."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import altair as alt

from layerprobe.report import style
from layerprobe.report.charts.heat_map import cells
from layerprobe.report.charts.layer_axis import LETTER
from layerprobe.report.layer_labels import clipped, shared_folder, short_names
from layerprobe.report.page.page_data import PageData
from layerprobe.report.page.vega_data import chosen_rows, with_layers
from layerprobe.report.page.view_frame import Frame
from layerprobe.report.picture_files import CONTAINER
from layerprobe.report.tidy import axis_top

DESCRIPTION = (
    "Heat map: rows are layers from the input down, one network below the other; columns are checkpoints in the order "
    "of training; colour and figure are the mean test error of the chosen runs of a network on the same data; dark "
    "is high."
)

_TALLEST = 700
_HEADING = 14
"""Pixels that the name of a network takes."""
_MOST_LETTERS = {"layer": 24, "checkpoint": 18}
_NARROW = 240
"""Pixels that the cells have on the narrowest screen."""


def layer_map(data: PageData, frame: Frame) -> alt.LayerChart:
    """Draw layers by checkpoints.

    Cells carry their figure where there is room. Where there are several networks, a row with a line and the
    network's name begins the rows of each.
    """
    labels = row_labels(data)
    n = max(1, len(labels))
    top = max(0.005, 0.0 if data.rows["error"].isna().all() else axis_top(data.rows["error"]))
    # Rows of whole pixels: between others a canvas leaves lines.
    height = frame.height or max(120, n * max(1, min(20, _TALLEST // n)))
    chart = (
        with_layers(chosen_rows(data, "rows", every_checkpoint=True), data)
        .transform_filter("isValid(datum.error)")
        .transform_calculate(
            row="datum.network + ' ' + datum.layer_text",
            network_name=f"{json.dumps([network.name for network in data.networks])}[datum.network]",
        )
        .transform_aggregate(
            mean="mean(error)", runs="count()", depth="min(depth)",
            groupby=["row", "network_name", "layer_text", "checkpoint", "checkpoint_name"],
        )
    )  # fmt: skip
    rows = _rows_of_problem(data, list(labels))
    layer = alt.Y(
        "row:N",
        scale=rows,
        axis=alt.Axis(
            title=None, domain=False, ticks=False, labelLimit=0, labelOverlap=True,
            labelExpr=f"{json.dumps(labels)}[datum.value]",
        ),
    )  # fmt: skip
    tooltip = [
        *([alt.Tooltip("network_name:N", title="network")] if len(data.networks) > 1 else []),
        alt.Tooltip("layer_text:N", title="layer"),
        alt.Tooltip("checkpoint_name:N", title="checkpoint"),
        alt.Tooltip("mean:Q", title="mean test error", format=".2%"),
        alt.Tooltip("runs:Q"),
    ]
    width = _NARROW if frame.width == CONTAINER else frame.width
    room = height / n >= 13 and width / max(1, len(data.checkpoints)) >= 38
    text = alt.Text("mean:Q", format=".1%") if room else None
    shared = shared_folder(_layer_names(data))
    where = "; ".join([*([f"layers of {shared}"] if shared else []), f"colours end at {top:.1%}"])
    placed = chart.encode(x=_checkpoints(data), y=layer, tooltip=tooltip)
    layers = cells(placed, "mean", top, height, text=text, below=True)
    if len(data.networks) > 1:
        layers += _network_names(chart, data, rows)
    return frame.chart(
        layers,
        height,
        DESCRIPTION,
        "Test error by layer and checkpoint",
        [*(["mean of the chosen runs of a network"] if len(data.runs) > 1 else []), where],
    )


def _checkpoints(data: PageData) -> alt.X:
    headings = {name: clipped(name, _MOST_LETTERS["checkpoint"]) for name in data.checkpoints}
    longest = max(map(len, headings.values()), default=0)
    level = f"{LETTER * longest + 6} <= width / {max(1, len(headings))}"
    return alt.X(
        "checkpoint_name:N",
        sort=list(data.checkpoints),
        scale=alt.Scale(round=True),
        axis=alt.Axis(
            orient="top", title=None, domain=False, ticks=False, labelLimit=0, labelOverlap=False,
            labelExpr=f"{json.dumps(headings)}[datum.value]",
            labelAngle=alt.ExprRef(f"{level} ? 0 : -90"),
            labelAlign=alt.ExprRef(f"{level} ? 'center' : 'left'"),
            labelBaseline=alt.ExprRef(f"{level} ? 'bottom' : 'middle'"),
        ),
    )  # fmt: skip


def _rows_of_problem(data: PageData, labels: Sequence[str]) -> alt.Scale:
    """Choose the rows of the networks that were probed on the data that are shown: others would be blank."""
    known = data.runs.groupby("problem")["network"].agg(set)
    if len(known) < 2:
        return alt.Scale(domain=list(labels))
    shown = {str(name): [row for row in labels if int(re.split("[ /]", row)[0]) in own] for name, own in known.items()}
    return alt.Scale(domain={"expr": f"{json.dumps(shown | {'': list(labels)})}[problem]"})


def _network_names(chart: alt.Chart, data: PageData, rows: alt.Scale) -> list[alt.Chart]:
    """Draw a line above the rows of each network, and write its name."""
    first = [f"{i} {network.layers[0]}" for i, network in enumerate(data.networks) if network.layers]
    begins = chart.transform_filter(alt.FieldOneOfPredicate("row", first))
    begins = begins.transform_calculate(row="split(datum.row, ' ')[0]")
    y = alt.Y("row:N", scale=rows, bandPosition=0)
    names = begins.transform_aggregate(groupby=["row", "network_name"]).mark_text(
        align="left", baseline="top", dx=2, dy=2, fontSize=11, fontWeight="bold", color=style.INK, aria=False
    )
    return [
        begins.mark_rule(color=style.INK, strokeWidth=1.5, aria=False).encode(y=y),
        names.encode(x=alt.value(0), y=y, text="network_name:N"),
    ]


def row_labels(data: PageData) -> dict[str, str]:
    """Name the rows of the heat map, network by network.

    Returns:
        The label of each row in order. Above the rows of each of several networks are rows without a label, as many as
        its name needs.
    """
    labels: dict[str, str] = {}
    names = _layer_names(data)
    short = dict(zip(names, short_names(names, _MOST_LETTERS["layer"]), strict=True))
    n = sum(len(network.layers) + 1 for network in data.networks)
    above = math.ceil(_HEADING / min(20, _TALLEST / max(1, n)))
    for i, network in enumerate(data.networks):
        if len(data.networks) > 1 and network.layers:
            labels |= {str(i): ""} | {f"{i}/{j}": "" for j in range(1, above)}  # no layer's row
        labels |= {f"{i} {layer}": short[layer] for layer in network.layers}
    return labels


def _layer_names(data: PageData) -> list[str]:
    return list(dict.fromkeys(layer for network in data.networks for layer in network.layers))
