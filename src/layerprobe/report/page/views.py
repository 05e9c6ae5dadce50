"""The views of the page: a specification for each; its script links them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import altair as alt

from layerprobe.compat.altair import unchecked
from layerprobe.report import style
from layerprobe.report.page.best_layer import best_layer
from layerprobe.report.page.dark_theme import following_theme
from layerprobe.report.page.depth_curves import depth_curves
from layerprobe.report.page.l2_path import l2_path
from layerprobe.report.page.layer_map import layer_map
from layerprobe.report.page.named_curves import beyond_linear_curves, reducer_curves
from layerprobe.report.page.page_data import PageData
from layerprobe.report.page.parameters import parameters
from layerprobe.report.page.seed_mean import seed_mean
from layerprobe.report.page.vega_data import share_transforms
from layerprobe.report.page.view_frame import Frame
from layerprobe.report.picture_files import AnyChart

View: TypeAlias = Callable[[PageData, Frame], alt.LayerChart]

VIEWS: dict[str, View] = {
    "curves": depth_curves,
    "best_layer": best_layer,
    "seed_mean": seed_mean,
    "beyond_linear": beyond_linear_curves,
    "reducers": reducer_curves,
    "l2_path": l2_path,
    "layer_map": layer_map,
}
"""The views by name, in the order of the page."""


def view_names(data: PageData) -> list[str]:
    """Name the views that have something to show."""
    without = {"best_layer", "seed_mean"} if len(data.runs) == 1 else set()
    needed = {
        "l2_path": data.swept_paths,
        "reducers": data.reducers,
        "beyond_linear": data.readers,
    }
    without |= {name for name, rows in needed.items() if rows.empty}
    return [name for name in VIEWS if name not in without]


@unchecked()
def linked_views(data: PageData) -> dict[str, dict[str, Any]]:
    """Draw each view as a specification of its own, as wide as its place on the page.

    Returns:
        Vega-Lite specifications by name, without their data: those are the same for all, see `PageData.texts`.
    """
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    specs = {name: _finished(VIEWS[name](data, Frame()).properties(autosize=fit), data) for name in view_names(data)}
    return specs | {"layer_map": following_theme(specs["layer_map"])}


@unchecked()
def single_view(data: PageData, name: str, width: int, height: int) -> dict[str, Any]:
    """Draw one view for a file, as a Vega-Lite specification that holds its data."""
    spec = _finished(VIEWS[name](data, Frame(width, height, linked=False)), data)
    spec["datasets"] = spec.get("datasets", {}) | data.texts
    return spec


def _finished(chart: AnyChart, data: PageData) -> dict[str, Any]:
    """Add the parameters and the look."""
    theme = style.theme()
    theme["title"] |= {"frame": "bounds", "fontSize": 14}
    # Searched for mistakes neither here nor, by `unchecked`, where its parts are made: that takes longer than all the
    # rest, and nothing that is drawn is the reader's choice.
    return share_transforms(chart.add_params(*parameters(data)).configure(**theme).to_dict(validate=False))
