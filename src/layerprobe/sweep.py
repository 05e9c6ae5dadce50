"""The table at the end of a multirun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from layerprobe.report.sweep_table import sweep_table
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
