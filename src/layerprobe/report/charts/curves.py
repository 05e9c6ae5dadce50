"""Curves of an error: the interval as a band, the line, its points, and a cross where a layer failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

MARKED = 25
"""So many points mark a line at most, about; more would hide it."""

Y = Callable[[str], alt.Y]
"""Gives the vertical encoding of a field; all fields of a chart share one axis and one scale."""


def error_y(title: str | None, scale: alt.Scale, **axis: Any) -> Y:
    """Make the vertical axis of an error."""
    options: dict[str, Any] = {"format": "%", "tickCount": 5, "domain": False, "ticks": False, **axis}
    if str(options["format"]).startswith("+"):
        options["labelExpr"] = "datum.value == 0 ? '0%' : datum.label"
    return lambda name: alt.Y(f"{name}:Q", axis=alt.Axis(title=title, **options), scale=scale)


@dataclass(frozen=True)
class Look:
    """How curves are told apart."""

    colour: Any
    detail: Sequence[str]
    line: Mapping[str, Any] = field(default_factory=dict)
    points: Mapping[str, Any] = field(default_factory=dict)


def curves(
    rows: alt.Chart,
    x: alt.X,
    y: Y,
    error: str,
    look: Look,
    *,
    interval: Sequence[str] = (),
    band: str = "true",
    between: Sequence[alt.Chart] = (),
    marked: str = "true",
    failed: bool = False,
) -> list[alt.Chart]:
    """Draw curves.

    Args:
        rows: A chart of rows, one for each point, with the fields that the encodings name.
        x: The horizontal encoding.
        y: The vertical encoding, from `error_y`.
        error: Field of the error; a row without one leaves a gap.
        look: How they are told apart.
        interval: Fields of the ends of the interval; empty where there is no band.
        band: Which rows have a band, as an expression of Vega.
        between: What is drawn above the bands and below the lines.
        marked: Which rows have a point, as an expression of Vega.
        failed: Whether a row without an error is marked by a cross.
    """
    at = {"x": x, "color": look.colour, "detail": list(look.detail)}
    layers = []
    for low, high in [interval] if interval else []:
        areas = rows if band == "true" else rows.transform_filter(band)
        layers.append(areas.mark_area(fillOpacity=0.14, clip=True, aria=False).encode(y=y(low), y2=f"{high}:Q", **at))
    layers += between
    layers.append(rows.mark_line(strokeWidth=1.8, clip=True, aria=False).encode(y=y(error), **at, **look.line))
    spots = rows.transform_filter(f"isValid(datum.{error}) && ({marked})")
    spots = spots.mark_point(filled=True, opacity=1, size=30, strokeWidth=1.5, aria=False)
    encoded = at | dict(look.points)
    if {"fill", "stroke"} <= set(encoded):
        del encoded["color"]  # which these two replace
    layers.append(spots.encode(y=y(error), **encoded))
    if failed:
        crosses = rows.transform_filter(f"!isValid(datum.{error})").transform_calculate(zero="0")
        crosses = crosses.mark_text(text="×", fontSize=16, dy=-8, aria=False)
        tooltip = {"tooltip": look.points["tooltip"]} if "tooltip" in look.points else {}
        layers.append(crosses.encode(x=x, y=y("zero"), color=look.colour, **tooltip))
    return layers
