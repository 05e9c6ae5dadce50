"""Panels of the plane: square, with samples of two classes and text that stays readable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd
from pandas.api.types import is_numeric_dtype

from layerprobe.report import style

SIDE = 270
"""Pixels of a panel's side."""
LABELLED = 16
"""Up to so many samples carry a text of their own; more are small points."""

_CLASSES = alt.Scale(domain=[0, 1], range=["white", style.INK])


def exact_scale(low: float, high: float) -> alt.Scale:
    """Return a scale that ends exactly where it is told to."""
    return alt.Scale(domain=[float(low), float(high)], nice=False, zero=False)


def axis(name: str, *, grid: bool = False, titled: bool = True) -> alt.Axis:
    """Return an axis with few ticks."""
    return alt.Axis(title=name if titled else None, tickCount=4, grid=grid, titleAngle=0)


def at_frame(rows: pd.DataFrame) -> alt.Chart:
    """Begin a chart of rows, of an animation where they have a column `frame`: those of the shown frame are drawn."""
    if "frame" not in rows:
        return alt.Chart(rows)
    # As CSV, which takes a quarter of the space.
    kinds = {str(name): "number" if is_numeric_dtype(rows[name]) else "string" for name in rows}
    text = rows.to_csv(index=False, float_format="%.4g", lineterminator="\n")
    data = alt.InlineData(values=text, format=alt.CsvDataFormat(type="csv", parse=kinds))
    return alt.Chart(data).transform_filter("datum.frame == frame")


def are_few(rows: pd.DataFrame) -> bool:
    """Tell whether the samples of each checkpoint are few enough to carry a text of their own."""
    return bool(rows.groupby("checkpoint").size().max() <= LABELLED)


def samples(chart: alt.Chart, few: bool) -> alt.Chart:
    """Mark the samples: white for label 0, black for label 1."""
    legend = alt.Legend(title="label", symbolStrokeColor=style.INK, symbolStrokeWidth=1.5, titlePadding=6)
    return chart.mark_point(filled=True, opacity=1, stroke=style.INK, strokeWidth=1.5 if few else 0.8).encode(
        fill=alt.Fill("label:N", scale=_CLASSES, legend=legend), size=alt.Size("size:Q", scale=None)
    )


def text_with_halo(chart: alt.Chart, text: alt.Text, dy: int = -16) -> list[alt.Chart]:
    """Write beside the points, on a halo that keeps the text readable over any background."""
    halo: dict[str, Any] = {"stroke": "white", "strokeWidth": 3, "strokeOpacity": 0.75, "strokeJoin": "round"}
    return [
        chart.mark_text(dy=dy, fontSize=11.5, **halo).encode(text=text),
        chart.mark_text(dy=dy, fontSize=11.5, color=style.INK).encode(text=text),
    ]


def panel(layers: Sequence[alt.Chart], caption: str) -> alt.LayerChart | alt.FacetChart:
    """Lay charts over one another in a square panel."""
    title = alt.TitleParams(caption, fontSize=12, offset=8)
    return alt.layer(*layers).properties(width=SIDE, height=SIDE, title=title)


def side_by_side(
    panels: Sequence[alt.LayerChart | alt.FacetChart], title: str, subtitle: Sequence[str], columns: int = 1
) -> alt.ConcatChart:
    """Put panels side by side, `columns` in a row; 1 stands for up to three."""
    columns = columns if columns > 1 else min(3, len(panels))
    heading = alt.TitleParams(title, subtitle=style.packed(subtitle, columns * SIDE))
    return alt.concat(*panels, columns=columns, spacing=26).properties(title=heading).configure(**style.theme())
