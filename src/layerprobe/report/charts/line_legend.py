"""Legend of lines: how those of a chart are told apart, by the colour, the dash and the points of each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import altair as alt
import pandas as pd

from layerprobe.report import style
from layerprobe.report.charts.curves import Look


def checkpoint_lines(frame: pd.DataFrame, width: int, tooltip: Sequence[alt.Tooltip]) -> tuple[pd.DataFrame, Look]:
    """Lay out a line for each checkpoint, by its caption."""
    checkpoints = frame.drop_duplicates("checkpoint")
    captions, lines = checkpoints["caption"].tolist(), style.lines(checkpoints["untrained"].tolist())
    colours = frame["caption"].map(dict(zip(captions, lines.colours, strict=True)))
    legend = legend_of(captions, width) if len(captions) > 1 else None
    return frame.assign(colour=colours), look_of("caption", captions, lines, legend, tooltip)


def legend_of(names: Sequence[str], width: int, most: int = 99) -> alt.Legend:
    """Place the names above a chart, in columns."""
    columns = max(1, min(most, int(width // (6.0 * max(map(len, names)) + 40))))
    return alt.Legend(title=None, orient="top", direction="horizontal", columns=columns, columnPadding=18, offset=8)


def look_of(
    field: str, names: Sequence[str], lines: style.Lines, legend: alt.Legend | None, tooltip: Sequence[alt.Tooltip]
) -> Look:
    """Choose the look of a line for each name. Bands and lines stay out of the legend, which shows the points."""
    scale = partial(alt.Scale, domain=list(names))
    dash: Any = alt
    for name, pattern in zip(names, lines.dashes, strict=True):  # one value for each line, without a scale of its own
        dash = dash.when(getattr(alt.datum, field) == name).then(alt.value(pattern))
    points = {
        "stroke": alt.Stroke(f"{field}:N", scale=scale(range=lines.colours), legend=legend),
        "fill": alt.Fill(f"{field}:N", scale=scale(range=lines.fills), legend=legend),
        "shape": alt.Shape(f"{field}:N", scale=scale(range=lines.shapes), legend=legend),
        "tooltip": tooltip,
    }
    return Look(alt.Color("colour:N", scale=None), [f"{field}:N"], {"strokeDash": dash}, points)
