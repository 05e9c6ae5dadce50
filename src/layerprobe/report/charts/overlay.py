"""Overlay: marks on top of one another as one chart, with the look and the title that every chart has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from layerprobe.report import style


def overlay(
    marks: Sequence[Any], width: int, height: int, heading: str, notes: Sequence[str], room: int = 0
) -> alt.LayerChart:
    """Draw marks on top of one another, the first ones below.

    Where the chart is narrower than `room` pixels, title and lines take these, and start at the labels' left.
    """
    frame: Literal["bounds", "group"] = "bounds" if width < room else "group"
    title = alt.TitleParams(heading, subtitle=style.packed(notes, max(width, room)), frame=frame)
    # Not by `properties`, which copies every mark once more.
    return alt.LayerChart(
        layer=list(marks), width=width, height=height, title=title, config=alt.Config(**style.theme())
    )
