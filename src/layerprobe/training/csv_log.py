"""Metrics in one CSV file for each run, which a run that goes on continues."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment


class ContinuedCsvLogger(CSVLogger):
    """Lightning's `CSVLogger`, whose file is kept when a run goes on; Lightning's own deletes it."""

    def __init__(self, save_dir: str | Path, name: str = "csv") -> None:
        """Choose the directory.

        Args:
            save_dir: The run's directory.
            name: The folder in it that holds `metrics.csv`.
        """
        super().__init__(save_dir, name=name, version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the file."""
        if self._experiment is None:
            os.makedirs(self.log_dir, exist_ok=True)
            self._experiment = _Writer(self.log_dir)
        return self._experiment


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Take up the columns that are there, where Lightning would delete them."""
        if os.path.isfile(self.metrics_file_path):
            with open(self.metrics_file_path, newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])
