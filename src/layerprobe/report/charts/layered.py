"""Layers of marks as one chart, with the look and the title that every chart has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from layerprobe.report import style


def layered(
    layers: Sequence[Any], width: int, height: int, heading: str, notes: Sequence[str], room: int = 0
) -> alt.LayerChart:
    """Draw layers on top of one another.

    Where the chart is narrower than `room` pixels, title and lines take these, and start at the labels' left.
    """
    frame: Literal["bounds", "group"] = "bounds" if width < room else "group"
    title = alt.TitleParams(heading, subtitle=style.packed(notes, max(width, room)), frame=frame)
    # Not by `properties`, which copies every layer once more.
    return alt.LayerChart(
        layer=list(layers), width=width, height=height, title=title, config=alt.Config(**style.theme())
    )
