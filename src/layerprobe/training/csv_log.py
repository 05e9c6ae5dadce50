"""Metrics in one CSV file for each run, which a run that goes on continues where it was saved."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment

from layerprobe.compat.lightning import KeptCsvWriter
from layerprobe.results.atomic import atomic

log = logging.getLogger("layerprobe")


class ContinuedCsvLogger(CSVLogger):
    """Lightning's `CSVLogger`, whose file is kept when a run goes on; Lightning's own deletes it."""

    def __init__(self, save_dir: str | Path, name: str = "csv") -> None:
        """Choose the directory.

        Args:
            save_dir: The run's directory.
            name: The folder in it that holds `metrics.csv`.
        """
        # Every row at once: what waits in memory is lost in a kill.
        super().__init__(save_dir, name=name, version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the file."""
        if self._experiment is None:
            os.makedirs(self.log_dir, exist_ok=True)
            _set_aside_damaged(Path(self.log_dir) / KeptCsvWriter.NAME_METRICS_FILE)
            self._experiment = _Writer(self.log_dir)
        return self._experiment

    def mark(self) -> int:
        """Write down what has been logged.

        Returns:
            Rows in the file; 0 in every process but the first.
        """
        self.save()
        writer = self.experiment
        return len(writer.rows()) if isinstance(writer, _Writer) else 0

    def rewind(self, mark: int, step: int) -> None:
        """Forget what an earlier process logged after a mark, since it is going to be logged again.

        Args:
            mark: Rows that stay.
            step: A step whose rows stay as well.
        """
        writer = self.experiment
        if isinstance(writer, _Writer):
            writer.rewind(mark, step)


class _Writer(KeptCsvWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._found = len(self.rows())

    def rows(self) -> list[dict[str, str]]:
        """What the file holds."""
        if not os.path.isfile(self.metrics_file_path):
            return []
        with open(self.metrics_file_path, newline="") as file:
            return list(csv.DictReader(file))

    def rewind(self, mark: int, step: int) -> None:
        rows = self.rows()
        earlier, own = rows[: self._found], rows[self._found :]
        kept = earlier[:mark] + [row for row in earlier[mark:] if row["step"] == str(step)]
        self._found = len(kept)
        if len(kept) < len(earlier):
            with atomic(Path(self.metrics_file_path)) as temporary, open(temporary, "w", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
                writer.writeheader()
                writer.writerows(kept + own)


def _set_aside_damaged(file: Path) -> None:
    """Move a file that is no table out of the way; a last row that is cut short is only left out."""
    try:
        with open(file, newline="") as content:
            rows = list(csv.reader(content))
    except FileNotFoundError:
        return
    except (ValueError, csv.Error):
        rows = []
    if rows and "step" in rows[0]:
        whole = [row for row in rows if len(row) == len(rows[0])]
        if len(whole) < len(rows):
            with atomic(file) as temporary, open(temporary, "w", newline="") as out:
                csv.writer(out).writerows(whole)
        return
    aside = file.with_name(f"{file.name}.damaged")
    file.rename(aside)
    log.warning("%s is damaged and was moved to %s; the metrics of earlier steps are no longer in it.", file, aside)
