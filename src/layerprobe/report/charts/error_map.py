"""A map of test errors at one checkpoint: layers or blocks by positions or sites."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from layerprobe.formatting import interval_texts, percent_text
from layerprobe.report.charts.heat_map import cells
from layerprobe.report.charts.layer_axis import LETTER, columns_x, layer_y, row_height
from layerprobe.report.charts.overlay import overlay
from layerprobe.report.tidy import axis_top

_COLUMNS = [
    "row", "column", "layer", "depth", "kind", "shape", "value", "text", "error_text", "interval", "val_text",
]  # fmt: skip


def error_map(
    frame: pd.DataFrame,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    notes: Sequence[str],
    column: str,
    axis_title: str | None,
) -> alt.LayerChart:
    """Draw a cell for each row and column, dark for a high test error; large ones carry their figure.

    Args:
        frame: A row for each cell: `row`, its place from 0 on; `column`, the column's name; `layer`, `depth`, `kind`,
            `shape`; the test error `value` with its interval from `low` to `high`; and `val_error`.
        rows: Names of the rows, from the top.
        columns: Names of the columns, from the left.
        title: Title of the chart.
        notes: What its subtitle says.
        column: What a column is called where a cell is pointed at.
        axis_title: What all rows are layers of.
    """
    top = max(0.005, axis_top(frame["value"]))
    digits = 2 if top < 0.05 else 1
    height = row_height(len(rows))
    wide = max(24 if len(columns) > 26 else 38, min(110, 620 // len(columns)))
    upright = LETTER * max(map(len, columns)) > wide
    texts = {
        "text": ["" if error != error else f"{error:.{digits}%}" for error in frame["value"]],
        "error_text": [percent_text(error) for error in frame["value"]],
        "interval": interval_texts(frame["low"], frame["high"]),
        "val_text": [percent_text(error) for error in frame["val_error"]],
    }
    tooltip = [
        alt.Tooltip("layer:N"), alt.Tooltip("depth:Q"), alt.Tooltip("kind:N"), alt.Tooltip("shape:N"),
        alt.Tooltip("column:N", title=column), alt.Tooltip("error_text:N", title="test error"),
        alt.Tooltip("interval:N", title="95% interval"), alt.Tooltip("val_text:N", title="validation error"),
    ]  # fmt: skip
    angle, limit = (-90, 180) if upright else (0, wide)
    across = columns_x("column", columns, labelAngle=angle, labelLimit=limit)
    base = alt.Chart(frame.assign(**texts)[_COLUMNS])
    base = base.encode(x=across, y=layer_y("row", rows, height, axis_title), tooltip=tooltip)
    text = alt.Text("text:N") if height >= 14 and wide >= 38 else None
    drawn = cells(base, "value", top, height * len(rows), text=text)
    darkest = [f"darkest: {top:.{digits}%} and above"] if (frame["value"] > top).any() else []
    return overlay(drawn, wide * len(columns), height * len(rows), title, [*notes, *darkest])
