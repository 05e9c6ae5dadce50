"""The figures of one run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from layerprobe.compat.altair import unchecked
from layerprobe.report.charts.beyond_linear import beyond_linear
from layerprobe.report.charts.depth_curve import depth_curve
from layerprobe.report.charts.direction_curve import direction_curve
from layerprobe.report.charts.erasure_curve import erasure_curve
from layerprobe.report.charts.few_shot_map import few_shot_map
from layerprobe.report.charts.heat_map import heat_map
from layerprobe.report.charts.information_curve import COMPRESSION, V_INFORMATION, information_curve
from layerprobe.report.charts.l2_path import path_curve
from layerprobe.report.charts.position_map import has_positions, position_map
from layerprobe.report.charts.site_map import has_sites, site_map
from layerprobe.report.dataset_transfer import test_set_lines
from layerprobe.report.depth_curve_options import DepthView
from layerprobe.report.head_charts import angles_of, confusion_of
from layerprobe.report.papers.reference_curve import ReferenceCurveError
from layerprobe.report.picture_files import AnyChart, save
from layerprobe.report.tidy import few_checkpoints
from layerprobe.report.toy.boundary_plane import project
from layerprobe.report.toy.decision_surface import decision_surface
from layerprobe.report.toy.hidden_plane import hidden_plane
from layerprobe.results.baselines import without_baselines
from layerprobe.results.logged_metrics import DIFFERENCE
from layerprobe.results.reader import Run

log = logging.getLogger("layerprobe")

Makers: TypeAlias = Mapping[str, Callable[[], AnyChart | None]]
"""What draws each chart, by its name; nothing where there is nothing to draw."""


def write_figures(
    results: pd.DataFrame,
    path: pd.DataFrame,
    directory: Path,
    view: DepthView | None = None,
    metrics: pd.DataFrame | None = None,
) -> list[Path]:
    """Write the figures of one run: `depth_curve`, `heat_map`, `path_curve` and `beyond_linear`, as PNG and SVG.

    Returns:
        Paths of the files. What has no data (no layer probed, no path of several values, no other reader) is left out,
        and so is what cannot be drawn, with a warning.

    Raises:
        OSError: If they cannot be written.
        ReferenceCurveError: If the published curve of the view cannot be read.
    """
    view = view or DepthView()
    made: dict[str, Callable[[], AnyChart | None]] = {}
    if without_baselines(results)["test_error"].notna().any():
        made["depth_curve"] = lambda: depth_curve(results, view.error, view.reference, metrics)
        made["heat_map"] = lambda: heat_map(results)
        if metrics is not None and metrics["metric"].eq(DIFFERENCE).any():
            made["beyond_linear"] = lambda: beyond_linear(results, metrics)
    if path.loc[path["val_error"].notna(), "l2"].nunique() > 1:
        made["path_curve"] = lambda: path_curve(path)
    return _saved(_drawn(made), directory)


@contextmanager
def _by_itself(name: str) -> Iterator[None]:
    """Let a chart that cannot be drawn take neither the others nor the run with it."""
    try:
        yield
    except (OSError, ReferenceCurveError):
        raise
    except Exception as error:  # whatever it is, the results of a finished run are there
        log.warning("%s was not drawn: %s: %s", name, type(error).__name__, (str(error).splitlines() or [""])[0])


@unchecked()  # nothing drawn here is the reader's choice: as in `save`, it is not searched for mistakes
def _drawn(made: Makers) -> dict[str, AnyChart]:
    charts: dict[str, AnyChart] = {}
    for name, draw in made.items():
        with _by_itself(name):
            if (chart := draw()) is not None:
                charts[name] = chart
    return charts


def _saved(charts: Mapping[str, AnyChart], directory: Path) -> list[Path]:
    files: list[Path] = []
    for name, chart in charts.items():
        with _by_itself(name):
            files += save(chart, Path(directory) / name)
    return files


def write_run_figures(run: Run, directory: Path, view: DepthView | None = None) -> list[Path]:
    """Write the figures of one run from its files.

    Beside those of `write_figures` the maps of `angle_maps`; the matrix of `confusion_charts`; the charts of
    `analysis_charts`; `position_map`, where several reducers were read; `site_map`, where layers are sites of blocks;
    `test_sets`, where the heads were read on several: the last checkpoint's curve with a line for each; and `surface`
    and `hidden`, where the run kept their frames (`surface.parquet`, `points.parquet`, `hidden.parquet`).

    Returns:
        Paths of the files.

    Raises:
        OSError: If the figures cannot be written.
    """
    metrics = run.metrics()
    files = write_figures(run.results, run.path(), directory, view, metrics)
    made: dict[str, Callable[[], AnyChart | None]] = {}
    if has_positions(metrics):
        made["position_map"] = lambda: position_map(run.results, metrics)
    if has_sites(run.results):
        made["site_map"] = lambda: site_map(run.results)
    made["test_sets"] = lambda: None if (lines := test_set_lines(run)) is None else depth_curve(lines)
    kept = {name: few_checkpoints(frame) for name, frame in run.plane_frames().items()}
    if "surface" in kept and "points" in kept:
        made["surface"] = lambda: decision_surface(kept["surface"], kept["points"])
    if "hidden" in kept:
        made["hidden"] = lambda: hidden_plane(*project(kept["hidden"], run.head))
    charts = angle_maps(run) | confusion_charts(run) | analysis_charts(run) | _drawn(made)
    return [*files, *_saved(charts, directory)]


def confusion_charts(run: Run) -> dict[str, AnyChart]:
    """Draw `confusion` at the layer of the last checkpoint that validation prefers, where its scores are kept.

    Returns:
        The chart by its name; none without scores of classes, or of more than 100 of them.
        `plot_confusion` of `layerprobe.load` draws that of any layer.
    """
    last, best = run.last_checkpoint, run.best_layer.layer
    return _drawn({"confusion": partial(confusion_of, run, last, best)})


def angle_maps(run: Run) -> dict[str, AnyChart]:
    """Draw how heads turn: `angles_layers` at the last checkpoint, `angles_checkpoints` at its best layer.

    Returns:
        The charts by name, where there are heads to compare. Of more than 100 classes, or of many wide
        layers, none, since every pair of heads takes a singular value decomposition; `layerprobe.angle_map` draws
        these, too.
    """
    last, best = run.last_checkpoint, run.best_layer.layer
    made: Makers = {
        "angles_layers": partial(angles_of, run, "layers", last),
        "angles_checkpoints": partial(angles_of, run, "checkpoints", best),
    }
    return _drawn(made)


def analysis_charts(run: Run) -> dict[str, AnyChart]:
    """Draw what analyses came to: `v_information`, `compression`, `few_shot`, `direction_curve`, `erasure_curve`.

    Returns:
        The charts by name; of an analysis that was not made there is none.
    """
    results, metrics = run.results, run.metrics()
    known = set(metrics.loc[metrics["value"].notna(), "head"])
    made: dict[str, tuple[set[str], Callable[[], AnyChart]]] = {
        "v_information": ({V_INFORMATION.analysis}, lambda: information_curve(metrics, V_INFORMATION)),
        "compression": ({COMPRESSION.analysis}, lambda: information_curve(metrics, COMPRESSION)),
        "few_shot": ({"few_shot"}, lambda: few_shot_map(results, metrics)),
        "direction_curve": ({"mean_difference", "stability"}, lambda: direction_curve(results, metrics)),
        "erasure_curve": ({"erased"}, lambda: erasure_curve(results, metrics)),
    }
    return _drawn({name: draw for name, (analyses, draw) in made.items() if analyses & known})
