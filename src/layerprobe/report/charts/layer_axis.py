"""The axis of layers: their names, for four layers and for hundreds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

LETTER = 6.2
"""Pixels of a letter, about."""
LINE = 13
"""Pixels from one line of text to the next."""


def layer_names(frame: pd.DataFrame) -> list[str]:
    """Return the labels of the layers in the order of depth.

    Args:
        frame: Results from `prepare`.
    """
    return frame.drop_duplicates("position").sort_values("position")["label"].tolist()


def layer_step(labels: Sequence[str]) -> int:
    """Choose the distance between layers on a horizontal axis.

    Args:
        labels: Labels of the layers in the order of depth.

    Returns:
        Pixels for each layer: enough for a readable line, little enough for a page.
    """
    n = len(labels)
    level = LETTER * max(map(len, labels), default=0) + 10
    if n * level <= 640:
        return max(int(level), 480 // n)
    return max(8, min(60, 760 // n))


def layer_x(labels: Sequence[str], step: int, shared: str = "") -> alt.X:
    """Place the layers side by side, their names below: level where they fit, slanted or upright where not.

    Args:
        labels: Labels of the layers in the order of depth.
        step: Pixels for each layer.
        shared: The folder that was dropped from the labels.

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
        title=f"layers of {shared}" if shared else None,
    )
    return alt.X("position:Q", axis=axis, scale=place_scale(len(labels)))


def place_scale(n: int) -> alt.Scale:
    """The scale of n places side by side, with a margin at either end."""
    return alt.Scale(domain=[-0.4, n - 0.6], nice=False, zero=False)


def thinned(labels: Sequence[str], room: int) -> dict[str, Any]:
    """Choose which layers an axis names.

    Args:
        labels: Labels of the layers in the order of depth.
        room: Pixels for each layer, across the text.

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
