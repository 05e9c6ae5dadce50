"""The views of the page; each can also be drawn alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from layerprobe.report.page.best_layer import best_layer
from layerprobe.report.page.depth_curves import depth_curves
from layerprobe.report.page.l2_path import l2_path
from layerprobe.report.page.layer_map import layer_map
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
