"""The axis of layers: their names, for four layers and for hundreds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from layerprobe.report.charts.curves import MARKED
from layerprobe.report.layer_labels import shared_folder

LETTER = 6.2
"""Pixels of a letter, about."""
LINE = 13
"""Pixels from one line of text to the next."""


def layer_names(frame: pd.DataFrame) -> list[str]:
    """Return the labels of the layers in the order of depth."""
    return frame.drop_duplicates("position").sort_values("position")["label"].tolist()


@dataclass(frozen=True)
class LayerAxis:
    """The horizontal axis of a chart over depth.

    Attributes:
        x: The encoding of `position`.
        width: Its length in pixels.
        marked: Which places have a point, of many layers some, as an expression of Vega.
    """

    x: alt.X
    width: int
    marked: str

    @classmethod
    def of(cls, labels: Sequence[str], layers: pd.Series) -> LayerAxis:
        """Place layers side by side."""
        step, n = layer_step(labels), len(labels)
        x = layer_x(labels, step, layers_of(layers.unique()))
        return cls(x, step * n, f"datum.position % {max(1, n // MARKED)} == 0")


def layers_of(layers: Iterable[str]) -> str | None:
    """Write the title of an axis of layers: the folder that is dropped from their labels; None where there is none."""
    shared = shared_folder(list(layers))
    return f"layers of {shared}" if shared else None


def row_height(n: int) -> int:
    """Choose the pixels for each of n layers below one another."""
    return max(5, min(26 if n <= 16 else 18, 920 // n))


def layer_y(field: str, labels: Sequence[str] | None, height: int, title: str | None) -> alt.Y:
    """Place layers below one another, named from the top by `labels`; without these, no layer is named."""
    named = {"labels": False} if labels is None else thinned(labels, height)
    return alt.Y(
        f"{field}:O",
        # A first cell that begins at -1e-15 by rounding would lose its name: a margin keeps it inside.
        scale=alt.Scale(paddingInner=0.06 if height >= 12 else 0, paddingOuter=0.03),
        axis=alt.Axis(**named, title=title, domain=False, ticks=False),
    )


def columns_x(field: str, names: Sequence[str], **axis: Any) -> alt.X:
    """Place columns of cells side by side in the order of their names, which stand above them."""
    options: dict[str, Any] = {"orient": "top", "title": None, "domain": False, "ticks": False, **axis}
    scale = alt.Scale(paddingInner=0.03, paddingOuter=0.015)
    return alt.X(f"{field}:N", sort=list(names), scale=scale, axis=alt.Axis(**options))


def square(labels: Sequence[str], step: int, across: str | None, down: str | None, **axis: Any) -> tuple[alt.X, alt.Y]:
    """Make axes of a square of cells whose rows and columns are the same: the fields `column` and `row`."""
    scale = alt.Scale(paddingInner=0.04 if step >= 12 else 0, paddingOuter=0.02)
    both = thinned(labels, step) | {"domain": False, "ticks": False}
    angle = 0 if LETTER * max(map(len, labels)) <= step else -90
    return (
        alt.X("column:O", scale=scale, axis=alt.Axis(**both, **axis, title=across, labelAngle=angle)),
        alt.Y("row:O", scale=scale, axis=alt.Axis(**both, title=down)),
    )


def layer_step(labels: Sequence[str]) -> int:
    """Choose the pixels for each layer on a horizontal axis: enough for a readable line, little enough for a page."""
    n = len(labels)
    level = LETTER * max(map(len, labels), default=0) + 10
    if n * level <= 640:
        return max(int(level), 480 // n)
    return max(8, min(60, 760 // n))


def layer_x(labels: Sequence[str], step: int, title: str | None = None) -> alt.X:
    """Place the layers side by side, their names below: level where they fit, slanted or upright where not.

    Returns:
        The encoding of `position`. With many layers only some are named, the first and the last among them.
    """
    if LETTER * max(map(len, labels), default=0) <= step - 8:
        angle, room = 0, LINE
    else:
        angle, room = (-40, LINE) if step >= 24 else (-90, step)
    axis = alt.Axis(
        **thinned(labels, room),
        labelAngle=angle,
        labelAlign="center" if angle == 0 else "right",
        labelBaseline="top" if angle == 0 else "middle",
        grid=False,
        title=title,
    )
    return alt.X("position:Q", axis=axis, scale=place_scale(len(labels)))


def place_scale(n: int) -> alt.Scale:
    """Return the scale of n places side by side, with a margin at either end."""
    return alt.Scale(domain=[-0.4, n - 0.6], nice=False, zero=False)


def thinned(labels: Sequence[str], room: int) -> dict[str, Any]:
    """Choose which layers an axis names.

    Returns:
        Options of `alt.Axis` over the layers' places: every layer where there is room, else every second or third, the
        first and the last always.
    """
    last, every = len(labels) - 1, -(-LINE // max(1, room))
    shown = [i for i in range(0, last, every) if i == 0 or last - i >= every] + [last]
    # Without a count of its own the axis would thin these values once more.
    return {
        "values": shown,
        "tickCount": len(shown),
        "labelExpr": f"{json.dumps(list(labels))}[datum.value]",
        "labelLimit": 260,
        "labelOverlap": False,
        "labelFlush": False,
    }
