"""The linked views of the page as one specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import altair as alt

from layerprobe.report import style
from layerprobe.report.page.best_layer import best_layer
from layerprobe.report.page.datasets import datasets
from layerprobe.report.page.depth_curves import depth_curves
from layerprobe.report.page.l2_path import l2_path
from layerprobe.report.page.layer_map import layer_map
from layerprobe.report.page.page_data import PageData
from layerprobe.report.page.pickers import pickers
from layerprobe.report.page.seed_mean import seed_mean
from layerprobe.report.picture_files import AnyChart

View: TypeAlias = Callable[..., AnyChart]

VIEWS: dict[str, View] = {
    "curves": depth_curves,
    "best_layer": best_layer,
    "seed_mean": seed_mean,
    "l2_path": l2_path,
    "layer_map": layer_map,
}
"""The views by name; each can also be drawn alone."""


def linked_views(data: PageData) -> dict[str, Any]:
    """Put all views into one specification, in which pickers and brush choose for all of them.

    Args:
        data: What the page draws.

    Returns:
        A Vega-Lite specification that holds its data.
    """
    view = {name: draw(data) for name, draw in VIEWS.items()}
    # The brushed view comes first: Vega-Lite 6 does not find its data from a view that stands before it.
    apart: Any = dict.fromkeys(("color", "shape", "stroke", "strokeDash"), "independent")
    first = alt.hconcat(view["best_layer"], view["curves"], spacing=36).resolve_scale(**apart)
    second = alt.hconcat(view["seed_mean"], view["l2_path"], spacing=36).resolve_scale(**apart)
    chart = alt.vconcat(first, second, view["layer_map"], spacing=34).resolve_scale(**apart)
    return finished(chart, data, bound=True)


def single_view(data: PageData, name: str, width: int, height: int) -> dict[str, Any]:
    """Draw one view for a file.

    Args:
        data: What the page draws.
        name: One of `VIEWS`.
        width: Pixels.
        height: Pixels.

    Returns:
        A Vega-Lite specification that holds its data.
    """
    return finished(VIEWS[name](data, linked=False, width=width, height=height), data, bound=False)


def finished(chart: AnyChart, data: PageData, *, bound: bool) -> dict[str, Any]:
    """Add the parameters, the data and the look."""
    spec = chart.add_params(*pickers(data, bound)).configure(**style.theme()).to_dict()
    spec["datasets"] = spec.get("datasets", {}) | datasets(data)
    return spec
