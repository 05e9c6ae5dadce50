"""The views of the page; each can also be drawn alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from layerprobe.report.page.best_layer import scatter
from layerprobe.report.page.curves import curves
from layerprobe.report.page.l2_path import l2_path
from layerprobe.report.page.layer_map import layer_map
from layerprobe.report.page.seed_mean import seed_mean
from layerprobe.report.picture_files import AnyChart

View: TypeAlias = Callable[..., AnyChart]

VIEWS: dict[str, View] = {
    "curves": curves,
    "best_layer": scatter,
    "seed_mean": seed_mean,
    "l2_path": l2_path,
    "layer_map": layer_map,
}
