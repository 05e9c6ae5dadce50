"""Report of a run that is done: its figures, its table and the summary that it leaves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import hydra
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from layerprobe.report.depth_curve_options import DepthView
from layerprobe.report.run_figures import write_run_figures
from layerprobe.report.tables.results_table import results_table
from layerprobe.results.best import best_layer
from layerprobe.results.reader import Run
from layerprobe.results.run_directory import RunDirectory
from layerprobe.results.run_summary import RunSummary
from layerprobe.results.store import ProbeStore
from layerprobe.training.probe_log import ProbeLog

log = logging.getLogger("layerprobe")


def report(run: RunDirectory, sinks: ProbeLog, view: DepthView) -> pd.DataFrame:
    """Draw, print and log what the probes found."""
    store, figures = ProbeStore(run.path / "probes"), run.path / "figures"
    results = store.results()
    if view.figures:
        sinks.figures(write_run_figures(Run.read(run.path), figures, view))
    Console().print(results_table(results))
    if (distance := view.distance(results, figures)) is not None:
        Console().print(distance)
    log.info("Results: %s", store.directory / "results.parquet")
    if view.figures:
        log.info("Figures: %s", figures)
    return results


def summary(cfg: DictConfig, results: pd.DataFrame, metrics: Mapping[str, float] | None = None) -> RunSummary:
    """Sum up a run that is done.

    Returns:
        The metrics, the layer that validation prefers at the last checkpoint with its test error, and the objective.
    """
    best = best_layer(results)
    objective: Any = hydra.utils.instantiate(cfg.objective)(results)
    found = {**(metrics or {}), "probe/best_layer_test_error": best.test_error}
    return RunSummary("done", list(HydraConfig.get().overrides.task), found, best.layer, objective=objective)
