"""The views of the page as PNG and SVG files, as wide as a column of a paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerprobe.report.page.layer_map import row_labels
from layerprobe.report.page.page_data import PageData
from layerprobe.report.page.views import single_view, view_names
from layerprobe.report.picture_files import write_pictures

COLUMN = 3.4
"""Inches of a column in the usual two-column styles."""
_PIXELS, _PRINT = 96, 300
_MARGIN = 60
_SMALL = {
    "padding": 4,
    "title": {"fontSize": 11, "subtitleFontSize": 9, "offset": 6, "anchor": "start", "frame": "group"},
    "axis": {"labelFontSize": 9, "titleFontSize": 9.5, "titlePadding": 5, "labelPadding": 3, "labelLimit": 90},
    "legend": {"labelFontSize": 9, "titleFontSize": 9, "symbolSize": 40, "orient": "bottom", "columns": 3, "offset": 6},
}


def write_views(data: PageData, directory: Path) -> Iterator[Path]:
    """Write each view as `<name>.png` (300 dots per inch) and `<name>.svg`.

    Pickers are at their first values.

    Yields:
        The path of each file that is written.

    Raises:
        OSError: If they cannot be written.
    """
    for name in view_names(data):
        wide, tall = int(COLUMN * _PIXELS) - _MARGIN, 180
        if name == "layer_map":
            labels = row_labels(data).values()
            wide -= min(150, 6 * max(map(len, labels), default=0))
            tall = min(12 * len(labels) + 10, 560)
        yield from write_column_picture(single_view(data, name, wide, tall), Path(directory) / name)


def write_column_picture(spec: dict[str, Any], stem: Path) -> list[Path]:
    """Write a specification as a picture for a column, as PNG and SVG."""
    config = {key: dict(value) if isinstance(value, dict) else value for key, value in spec.get("config", {}).items()}
    for key, value in _SMALL.items():
        config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
    return write_pictures(spec | {"config": config}, stem, _PRINT / _PIXELS)
