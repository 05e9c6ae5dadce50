"""The frame of a view: its place on the page, or its size in a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from layerprobe.report.picture_files import CONTAINER, Width


@dataclass(frozen=True)
class Frame:
    """Where a view is drawn.

    Attributes:
        width: Pixels, or as wide as there is room.
        height: Pixels; 0 for the view's own height.
        linked: Whether it stands on the page, with one legend and a brush for all views.
    """

    width: Width = CONTAINER
    height: int = 0
    linked: bool = True

    def chart(
        self, layers: Sequence[Any], height: int, description: str, title: str | alt.ExprRef, subtitle: Any
    ) -> alt.LayerChart:
        """Put layers into the frame."""
        # Not by `properties`, which copies every layer once more.
        return alt.LayerChart(
            layer=list(layers),
            width=self.width,
            height=self.height or height,
            description=description,
            title=alt.TitleParams(title, subtitle=subtitle),
        )
