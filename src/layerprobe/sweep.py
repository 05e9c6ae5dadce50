"""The table and the picture at the end of a multirun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from layerprobe.report.save import save
from layerprobe.report.sweep_curves import sweep_curves
from layerprobe.report.sweep_table import sweep_table
from layerprobe.results.store import ProbeStore
from layerprobe.results.summary import RunSummary


class SweepTable(Callback):
    """Prints what every job of a sweep came to, averaged over seeds, and writes it to `sweep.csv`."""

    def __init__(self, over: str = "seed") -> None:
        """Choose what is averaged over.

        Args:
            over: The key whose values are repetitions of one experiment.
        """
        self._over = over

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table."""
        directory = Path(config.hydra.sweep.dir)
        jobs = sweep_frame(directory)
        if jobs.empty:
            return
        jobs.to_csv(directory / "sweep.csv", index=False)
        Console().print(sweep_table(jobs, over=self._over))
        Console().print(f"Every job: {directory / 'sweep.csv'}", highlight=False, soft_wrap=True)


class SweepCurves(Callback):
    """Draws every layer of every job of a sweep into one picture, `depth_curves.png` and `.svg`."""

    def __init__(self, row: str, column: str, line: str, title: str = "") -> None:
        """Choose what tells the jobs apart.

        Args:
            row: Key whose values are the rows of panels, such as `model`.
            column: Key whose values are the columns, such as `model/activation`.
            line: Key whose values are the lines of a panel, such as `model.depth`.
            title: What the picture is to show.
        """
        self._keys = (row, column, line)
        self._title = title

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Draw the last checkpoint of every job that is done."""
        directory = Path(config.hydra.sweep.dir)
        results = sweep_results(directory)
        missing = [key for key in self._keys if key not in results]
        if missing:
            Console().print(f"No picture of the sweep: no job that is done sets {', '.join(missing)}.", highlight=False)
            return
        files = save(sweep_curves(results, *self._keys, title=self._title), directory / "depth_curves")
        Console().print(f"Every layer: {files[0]}", highlight=False, soft_wrap=True)


def sweep_results(directory: Path) -> pd.DataFrame:
    """Collect the results of a sweep's jobs.

    Args:
        directory: The sweep's directory.

    Returns:
        The rows of the last checkpoint of every job that is done, in the columns of `ProbeRecord`, with `directory` and
        a column for each overridden key.
    """
    jobs = sweep_frame(directory)
    frames = []
    for job in jobs[jobs["status"] == "done"].to_dict("records") if len(jobs) else []:
        results = ProbeStore(Path(job["directory"]) / "probes").results()
        last = results[results["step"] == results["step"].max()]
        frames.append(last.assign(**{str(key): str(value) for key, value in job.items() if key not in results}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def sweep_frame(directory: Path) -> pd.DataFrame:
    """Collect the summaries of a sweep.

    Args:
        directory: The sweep's directory.

    Returns:
        One row for each job that has ended: directory, status, error, best_layer, a column for each overridden key
        and one for each metric.
    """
    rows = []
    for folder in sorted(directory.glob("*/"), key=lambda path: (len(path.name), path.name)):
        summary = RunSummary.read(folder)
        if summary is not None:
            overrides = dict(override.lstrip("+").split("=", 1) for override in summary.overrides if "=" in override)
            rows.append(
                {"directory": str(folder), "status": summary.status, **overrides, **summary.metrics}
                | {"best_layer": summary.best_layer, "error": summary.error}
            )
    return pd.DataFrame(rows)
