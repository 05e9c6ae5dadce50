"""Picture files: charts as PNG and SVG, written without a browser."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import altair as alt
import pandas as pd
import vl_convert
from PIL import Image

from layerprobe.files.atomic import write_bytes

AnyChart: TypeAlias = (
    alt.Chart | alt.LayerChart | alt.FacetChart | alt.ConcatChart | alt.HConcatChart | alt.VConcatChart
)
C = TypeVar("C", bound=AnyChart)

CONTAINER: Literal["container"] = "container"
"""The width of a chart that is as wide as its place on a page."""
Width: TypeAlias = int | Literal["container"]


def specification(chart: AnyChart) -> dict[str, Any]:
    """Return a chart as a Vega-Lite specification, however many rows it has, without looking for mistakes in it."""
    with alt.data_transformers.enable("default", max_rows=None):
        return chart.to_dict(validate=False)


def with_all_rows(chart: C) -> C:
    """Give a chart its rows as values, which Altair draws however many there are; a table ends at 5,000 rows."""
    # Layers share tables, and Altair writes equal values once; a table that is kept leaves its id to no other.
    values: dict[int, tuple[pd.DataFrame, Any]] = {}
    parts: list[Any] = [chart]
    while parts:
        part = parts.pop()
        if isinstance(table := part.data, pd.DataFrame):
            if id(table) not in values:
                values[id(table)] = table, alt.to_values(table)
            part.data = values[id(table)][1]
        for name in ("layer", "hconcat", "vconcat", "concat"):
            parts += getattr(part, name, None) or []
        parts += [part.spec] if isinstance(part, alt.FacetChart) else []
    return chart


def write_pictures(spec: dict[str, Any], stem: Path, scale: float) -> list[Path]:
    """Write a specification as `<stem>.png` and `<stem>.svg`.

    The PNG file has `scale` pixels for each of the drawing; missing folders are made.

    Returns:
        Paths of the two files; each is whole or absent, whenever the process is killed.

    Raises:
        OSError: If they cannot be written.
    """
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    drawing = vl_convert.vegalite_to_svg(spec)
    drawn, small = io.BytesIO(vl_convert.svg_to_png(drawing, scale=scale)), io.BytesIO()
    Image.open(drawn).convert("RGB").save(small, "PNG")  # the same pixels in a third of the bytes
    write_bytes(png, small.getvalue())
    write_bytes(svg, drawing.encode())
    return [png, svg]


def save(chart: AnyChart, stem: Path) -> list[Path]:
    """Write a chart as `write_pictures` does, the PNG file at twice its size in pixels.

    Raises:
        OSError: If they cannot be written.
    """
    return write_pictures(specification(chart), stem, 2.0)
