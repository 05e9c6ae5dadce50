"""Charts as PNG and SVG files, without a browser."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TypeAlias

import altair as alt

from layerprobe.results.atomic import write_bytes

AnyChart: TypeAlias = (
    alt.Chart | alt.LayerChart | alt.FacetChart | alt.ConcatChart | alt.HConcatChart | alt.VConcatChart
)


def save(chart: AnyChart, stem: Path) -> list[Path]:
    """Write a chart as `<stem>.png`, at twice its size in pixels, and as `<stem>.svg`.

    Args:
        chart: The chart.
        stem: Path of the files without their endings; missing folders are made.

    Returns:
        Paths of the two files; each is whole or absent, whenever the process is killed.

    Raises:
        OSError: If they cannot be written.
    """
    png, svg = io.BytesIO(), io.StringIO()
    with alt.data_transformers.enable("default", max_rows=None):
        chart.save(png, format="png", scale_factor=2)
        chart.save(svg, format="svg")
    contents = {".png": png.getvalue(), ".svg": svg.getvalue().encode()}
    files = [stem.with_name(stem.name + ending) for ending in contents]
    for file, content in zip(files, contents.values(), strict=True):
        write_bytes(file, content)
    return files
