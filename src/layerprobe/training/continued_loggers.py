"""Loggers of a run that goes on: Lightning's for CSV files and Weights & Biases."""

from __future__ import annotations

import csv
import logging
import os
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from layerprobe.compat.lightning import KeptCsvWriter, forget_run, wandb_options
from layerprobe.files.atomic import atomic
from layerprobe.results.wandb_history import WandbGuard, WandbHistory
from layerprobe.results.wandb_mode import start_or_go_offline

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger("layerprobe")


class ContinuedCsvLogger(CSVLogger):
    """Lightning's `CSVLogger`, whose file is kept when a run goes on; Lightning's own deletes it.

    Args:
        save_dir: The run's directory.
        name: The folder in it that holds `metrics.csv`.
    """

    def __init__(self, save_dir: str | Path, name: str = "csv") -> None:
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
        """Write down what has been logged, and return the rows in the file; 0 in every process but the first."""
        self.save()
        writer = self.experiment
        return len(writer.rows()) if isinstance(writer, _Writer) else 0

    def rewind(self, mark: int, step: int) -> None:
        """Forget what an earlier process logged after a mark, since it is going to be logged again.

        The rows up to the mark stay, and so do those of `step`.
        """
        writer = self.experiment
        if isinstance(writer, _Writer):
            writer.rewind(mark, step)


class _Writer(KeptCsvWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._found = len(self.rows())

    def rows(self) -> list[dict[str, str]]:
        """Return what the file holds."""
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


class SteadyWandbLogger(WandbLogger):
    """Lightning's `WandbLogger`, with a history that a run which goes on completes.

    Where wandb's own process has died, another one goes on; where that is no help, it says so once and the training
    goes on.
    """

    _history: WandbHistory | None = None
    _hyper_parameters: dict[str, Any] | Namespace | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guarded = WandbGuard()
        wandb_options(self).pop("anonymous", None)  # wandb warns of it, even where nobody has chosen it

    @property
    def history(self) -> WandbHistory:
        """The history of the run, which is started where it has not been; only in the first process."""
        if self._history is None:
            self._history = WandbHistory(self.experiment, self._restart)
        return self._history

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log the configuration."""
        self._hyper_parameters = params
        super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics."""
        row: dict[str, Any] = {f"{self._prefix}-{name}" if self._prefix else name: metrics[name] for name in metrics}
        if step is not None and not wandb_options(self).get("sync_tensorboard"):
            row["trainer/global_step"] = step
        with self._guarded("log metrics"):
            self.history.log(row, f"{step} {sorted(row)}")

    def _restart(self) -> Run:
        import wandb

        with suppress(Exception):  # of a process that is no more
            wandb.teardown()
        wandb.run = None
        forget_run(self)
        run = start_or_go_offline(partial(getattr, self, "experiment"), wandb_options(self))
        if self._hyper_parameters is not None:
            super().log_hyperparams(self._hyper_parameters)
        return run

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: it takes up the history for itself."""
        return super().__getstate__() | {"_history": None}
