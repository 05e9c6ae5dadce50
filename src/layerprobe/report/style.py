"""One look for all figures: colours that the colour-blind and a black-and-white printer can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from textwrap import wrap
from typing import Any

INK = "#222222"
QUIET = "#6b6b6b"
FAINT = "#e6e6e6"
WHITE_FROM = 0.67
"""Share of the scale `yellowgreenblue` from which white letters have more contrast than those in `INK`."""

# Okabe and Ito's palette without its yellow, which is too faint for a line on white.
TRAINED = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ([1, 0], [8, 3], [3, 2], [9, 3, 2, 3], [5, 2, 1, 2, 1, 2], [14, 4], [2, 4])
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
_UNTRAINED = "#7d7d7d"


@dataclass(frozen=True)
class Lines:
    """How lines are told apart, one entry for each line in the order of training."""

    colours: list[str]
    fills: list[str]
    dashes: list[list[int]]
    shapes: list[str]


def lines(untrained: Sequence[bool]) -> Lines:
    """Choose how lines look: the last trained one is solid blue, the untrained ones are dotted grey with empty points.

    Looks repeat themselves after seven trained ones.
    """
    look = Lines([], [], [], [])
    later = sum(not one for one in untrained)
    for one in untrained:
        later -= not one
        place = later % len(TRAINED)
        look.colours.append(_UNTRAINED if one else TRAINED[place])
        look.fills.append("white" if one else TRAINED[place])
        look.dashes.append([2, 3] if one else list(DASHES[place]))
        look.shapes.append("circle" if one else SHAPES[place])
    return look


def packed(notes: Sequence[str], width: int) -> list[str]:
    """Set notes one after another, on as many lines as a subtitle of this width needs.

    Args:
        notes: Notes. One of more than a line, and more than 300 pixels, is broken between words.
        width: Width of the chart, in pixels.
    """
    rows: list[str] = []
    longest = int(max(width, 300) / 5.6)
    for note in chain.from_iterable(wrap(note, longest, break_long_words=False) for note in notes):
        joined = f"{rows[-1]}; {note}" if rows else note
        if rows and 5.6 * len(joined) <= width:
            rows[-1] = joined
        else:
            rows.append(note)
    return rows


def theme() -> dict[str, Any]:
    """Return the configuration that every chart gets."""
    return {
        "font": "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif",
        "background": "white",
        "padding": 14,
        "view": {"stroke": None},
        "title": {
            "anchor": "start",
            "frame": "group",
            "fontSize": 15,
            "fontWeight": 600,
            "color": INK,
            "subtitleFontSize": 11.5,
            "subtitleColor": QUIET,
            "subtitlePadding": 5,
            "offset": 14,
        },
        "axis": {
            "domainColor": "#999999",
            "tickColor": "#999999",
            "gridColor": FAINT,
            "labelColor": INK,
            "titleColor": QUIET,
            "labelFontSize": 11,
            "titleFontSize": 11.5,
            "titleFontWeight": "normal",
            "titlePadding": 10,
            "labelPadding": 5,
        },
        "legend": {
            "labelFontSize": 11.5,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "titleColor": QUIET,
            "labelColor": INK,
            "labelLimit": 420,
            "symbolOpacity": 1,
            "symbolSize": 80,
        },
        "header": {"labelFontSize": 12, "labelFontWeight": 600, "labelColor": INK, "titleColor": QUIET},
    }
