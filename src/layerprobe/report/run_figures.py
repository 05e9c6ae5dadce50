"""The figures of one run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from layerprobe.report.charts.depth_curve import depth_curve
from layerprobe.report.charts.heat_map import heat_map
from layerprobe.report.charts.l2_path import path_curve
from layerprobe.report.depth_curve_options import DepthView
from layerprobe.report.picture_files import AnyChart, save
from layerprobe.report.tidy import few_checkpoints
from layerprobe.report.toy.decision_surface import decision_surface
from layerprobe.report.toy.hidden_plane import hidden_plane
from layerprobe.report.toy.projection import project
from layerprobe.results.reader import Run


def write_figures(
    results: pd.DataFrame, path: pd.DataFrame, directory: Path, view: DepthView | None = None
) -> list[Path]:
    """Write the figures of one run: `depth_curve`, `heat_map` and `path_curve`, each as PNG and SVG.

    Args:
        results: Results of the run, in the columns of `ProbeRecord`.
        path: Its swept heads, in the columns of `PathRecord`.
        directory: Where the files go; made if missing.
        view: What `depth_curve` shows; by default test error.

    Returns:
        Paths of the files. What has no data (no layer probed, no path kept) is left out.

    Raises:
        OSError: If they cannot be written.
    """
    view = view or DepthView()
    charts: dict[str, AnyChart] = {}
    if results["test_error"].notna().any():
        charts = {"depth_curve": depth_curve(results, view.error, view.reference), "heat_map": heat_map(results)}
    if path["val_error"].notna().any():
        charts["path_curve"] = path_curve(path)
    return [file for name, chart in charts.items() for file in save(chart, Path(directory) / name)]


def write_run_figures(run: Run, directory: Path, view: DepthView | None = None) -> list[Path]:
    """Write the figures of one run from its files; also `surface` and `hidden`, where the run kept their frames.

    Args:
        run: The run, with or without `surface.parquet`, `points.parquet`, `hidden.parquet`.
        directory: Where the figures go; made if missing.
        view: What `depth_curve` shows; by default test error.

    Returns:
        Paths of the files.

    Raises:
        OSError: If the figures cannot be written.
    """
    files = write_figures(run.results, run.path(), directory, view)
    kept = {name: few_checkpoints(frame) for name, frame in run.plane_frames().items()}
    if "surface" in kept and "points" in kept:
        files += save(decision_surface(kept["surface"], kept["points"]), Path(directory) / "surface")
    if "hidden" in kept:
        frame, lines = project(kept["hidden"], run.head)
        files += save(hidden_plane(frame, lines), Path(directory) / "hidden")
    return files
