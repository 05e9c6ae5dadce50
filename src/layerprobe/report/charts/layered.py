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

    Args:
        layers: From the lowest to the uppermost.
        width: Pixels.
        height: Pixels.
        heading: The title.
        notes: What the lines below it say.
        room: Pixels that title and lines may take where the chart is narrower: they start at the labels' left then.
    """
    frame: Literal["bounds", "group"] = "bounds" if width < room else "group"
    title = alt.TitleParams(heading, subtitle=style.packed(notes, max(width, room)), frame=frame)
    return alt.layer(*layers).properties(width=width, height=height, title=title).configure(**style.theme())
