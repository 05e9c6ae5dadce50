"""Picture files: charts as PNG and SVG, written without a browser."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal, TypeAlias

import altair as alt
import vl_convert
from PIL import Image

from layerprobe.atomic import write_bytes

AnyChart: TypeAlias = (
    alt.Chart | alt.LayerChart | alt.FacetChart | alt.ConcatChart | alt.HConcatChart | alt.VConcatChart
)

CONTAINER: Literal["container"] = "container"
"""The width of a chart that is as wide as its place on a page."""
Width: TypeAlias = int | Literal["container"]


def specification(chart: AnyChart) -> dict[str, Any]:
    """Return a chart as a Vega-Lite specification, however many rows it has."""
    with alt.data_transformers.enable("default", max_rows=None):
        return chart.to_dict()


def write_pictures(spec: dict[str, Any], stem: Path, scale: float) -> list[Path]:
    """Write a specification as `<stem>.png` and `<stem>.svg`.

    Args:
        spec: A Vega-Lite specification.
        stem: Path of the files without their endings; missing folders are made.
        scale: Pixels of the PNG file for each of the drawing.

    Returns:
        Paths of the two files; each is whole or absent, whenever the process is killed.

    Raises:
        OSError: If they cannot be written.
    """
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    drawn, small = io.BytesIO(vl_convert.vegalite_to_png(spec, scale=scale)), io.BytesIO()
    Image.open(drawn).convert("RGB").save(small, "PNG", optimize=True)  # the same pixels in a third of the bytes
    write_bytes(png, small.getvalue())
    write_bytes(svg, vl_convert.vegalite_to_svg(spec).encode())
    return [png, svg]


def save(chart: AnyChart, stem: Path) -> list[Path]:
    """Write a chart as `write_pictures` does, the PNG file at twice its size in pixels.

    Args:
        chart: The chart.
        stem: Path of the files without their endings; missing folders are made.

    Returns:
        Paths of the two files.

    Raises:
        OSError: If they cannot be written.
    """
    return write_pictures(specification(chart), stem, 2.0)
