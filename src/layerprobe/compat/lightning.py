"""Lightning's private names: for leaving a training between two batches, for going on there, and for a quiet log.

Known for pytorch-lightning 2.5 to 2.6.
"""

from __future__ import annotations

import csv
import logging
import os
import warnings
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.data import _set_sampler_epoch
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter


def silence_lightning() -> None:
    """Leave Lightning's own advertisements, and its use of an API that torch is about to drop, out of the log."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message="The .srun. command is available")


def forget_sigterm(trainer: pl.Trainer) -> None:
    """Have the trainer forget a SIGTERM that it has received, for which it would stop by itself."""
    trainer._signal_connector.received_sigterm = False


def log_training_step(trainer: pl.Trainer) -> None:
    """Log what a training step has logged; the trainer does so only after `on_train_batch_end`."""
    trainer._logger_connector.update_train_step_metrics()


def logged_step(trainer: pl.Trainer) -> int:
    """Return the step that the trainer gives its loggers with the metrics of a training step."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


class OpenEpoch:
    """The batches of a training epoch, as the trainer reads them.

    Args:
        trainer: A trainer in `on_train_start`.

    Raises:
        ValueError: Where the trainer has not opened its training data.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        loop = trainer.fit_loop
        if loop._combined_loader is None or loop._data_fetcher is None:
            raise ValueError("the trainer has not opened its training data: call this in on_train_start")
        self._loader, self._fetcher = loop._combined_loader, loop._data_fetcher

    def begin_again(self, epoch: int) -> None:
        """Begin the epoch anew.

        Args:
            epoch: Which epoch it is, for samplers whose order depends on it.
        """
        for part in self._loader.flattened:
            _set_sampler_epoch(part, epoch)
        iter(self._fetcher)

    def skip(self, n: int) -> None:
        """Read batches that a resumed trainer has counted already."""
        for _ in range(n):
            next(self._fetcher)
        self._fetcher.fetched -= n


def as_before_validation(checkpoint: dict[str, Any]) -> None:
    """Change a checkpoint that is saved in a validation: its run goes on with the first batch of that validation."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    progress["current"].update(dict.fromkeys(progress["current"], 0))
    total = progress["total"]
    total.update(started=total["ready"], processed=total["ready"] - 1, completed=total["ready"] - 1)
    progress["is_last_batch"] = False


def as_before_epoch(checkpoint: dict[str, Any]) -> None:
    """Change a checkpoint that is saved in `on_train_epoch_start`: its run goes on with the start of that epoch."""
    fit = checkpoint["loops"]["fit_loop"]
    for counts in fit["epoch_progress"].values():
        counts["ready"] = counts["started"]
    progress = fit["epoch_loop.batch_progress"]
    progress["current"].update(dict.fromkeys(progress["current"], 0))
    progress["is_last_batch"] = False


def wandb_options(logger: WandbLogger) -> dict[str, Any]:
    """Return the arguments with which a logger calls `wandb.init`; a change before the run starts is one of the run."""
    return logger._wandb_init


def forget_run(logger: WandbLogger) -> None:
    """Have a logger start its run again when it is next asked for it."""
    logger._experiment = None


class KeptCsvWriter(ExperimentWriter):
    """Lightning's writer of metrics, which keeps the rows and columns of an earlier process; its own deletes them."""

    def _check_log_dir_exists(self) -> None:
        if os.path.isfile(self.metrics_file_path):
            with open(self.metrics_file_path, newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])
