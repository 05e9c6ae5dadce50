"""Resuming: a run is saved so that it survives a signal or a kill, and goes on as if it had never been stopped."""

from __future__ import annotations

import signal
import time
import warnings
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl

from layerprobe.compat.lightning import (
    OpenEpoch,
    as_before_epoch,
    as_before_validation,
    forget_sigterm,
    log_training_step,
    logged_step,
)
from layerprobe.files.atomic import atomic
from layerprobe.results.progress import ProgressFile
from layerprobe.training.callback_order import SAVES, LateCallback
from layerprobe.training.collectives import Ranks
from layerprobe.training.continued_loggers import ContinuedCsvLogger
from layerprobe.training.random_state import random_state, set_random_state
from layerprobe.training.signals import StopSignals

# The guard finds the place in an epoch itself, whatever the loader.
warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")

_SAVE, _STOP = 1, 2
Moment = Literal["batch", "validation", "epoch", "end"]
"""Where a run is saved: after a batch of training, in a validation, before an epoch, after training."""


class Guard(LateCallback):
    """Saves `last.ckpt` every few minutes, at the end of training, and on a signal, after which the run stops.

    A signal only raises a flag. The run stops after the next batch (training, validation or test) or before the next
    layer to be probed, with `Stopped`; every process of a distributed run stops after the same batch.

    `trainer.fit(..., ckpt_path=guard.path)` then goes on with the next batch. The epoch is read again up to there with
    the random generators that it began with, so that its order and its augmentations are those of a run that was never
    stopped; the generators then stand where they stood. Not kept are metrics that the module itself averages over
    a training epoch, and the position of a loader whose order depends on anything but those generators and the epoch.

    It runs after the other callbacks, and so sees each as it is once a batch or an epoch is over.

    Args:
        path: The file to save to and to go on from.
        every_n_seconds: Training time between two savings: what a kill without warning can cost at most.
    """

    place = SAVES

    def __init__(self, path: str | Path, every_n_seconds: float = 300.0) -> None:
        self.path = Path(path)
        self.every_n_seconds = every_n_seconds
        self.signals = StopSignals()
        self._saved = time.monotonic()
        self._state: dict[str, Any] = {}
        self._before_validation: list[dict[str, Any]] = []
        self._loaded: dict[str, Any] = {}
        self._ranks = Ranks()
        self._start_epoch = 0
        self.progress = ProgressFile(self.path.parent)
        self._steady = True
        self._saving = False

    @property
    def asked_to_stop(self) -> bool:
        """Whether a signal has come to this process."""
        return self.signals.received != 0

    def state_dict(self) -> dict[str, Any]:
        """Return where the random generators of every process stood when the epoch began, and where they stand.

        `moment` is where the run was saved; `first` says whether its first process began with this epoch. A checkpoint
        that others have the trainer save, at a moment of their own, has none of it.
        """
        return dict(self._state) if self._saving else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until training starts."""
        self._loaded = state_dict

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Go behind the others, start the clock; stop here where a signal came while the stage before was ending."""
        super().setup(trainer, pl_module, stage)
        self._ranks = Ranks()
        self._saved = time.monotonic()
        if stage != "fit" and self._due(trainer) == _STOP:
            self._leave(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set the random generators: a training that had ended before has opened its data all the same."""
        self.signals.forget()
        if stage == "fit" and self._loaded and self._matches(trainer):
            set_random_state(self._loaded["now"][trainer.global_rank])
        self._loaded = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the random generators, or set them: the trainer opens the first epoch's data before it trains."""
        if not self._loaded:
            self._state = {"began": self._everyones_state(), "first": True}
        elif self._loaded["first"] and self._matches(trainer):
            set_random_state(self._loaded["began"][trainer.global_rank])
        if self._loaded.get("ended_early"):  # as a callback had decided, which does not decide again
            trainer.should_stop = True
        # Nothing was saved: a run that was killed before that is begun anew.
        places = self._loaded.get("logged", ()) if self._loaded else [(0, -1)] * len(trainer.loggers)
        for logger, place in zip(_csv(trainer), places, strict=False):
            logger.rewind(*place)
        if self._due(trainer) == _STOP:
            self._leave(trainer)

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from the trainer, which handles SIGTERM in its own way."""
        self.signals.listen()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note signals from here on, and find the place in the epoch that a saved run had reached."""
        self.signals.listen()
        if trainer.received_sigterm:  # while the data were read
            self.signals.received = signal.SIGTERM
            forget_sigterm(trainer)
        self._start_epoch = trainer.current_epoch
        if self._loaded:
            self._find_place(trainer)
        if self._due(trainer) == _STOP:
            self._stop(trainer, "batch")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the random generators that the epoch begins with, and stop before it where it is time to."""
        if trainer.current_epoch > self._start_epoch:
            self._state = {"began": self._everyones_state(), "first": False}
            if self._due(trainer) == _STOP:
                self._stop(trainer, "epoch")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop where it is time to.

        Not between a batch and the validation or the end of the epoch that follows it; nor while gradients are summed.
        """
        if trainer.is_global_zero:
            self.progress.write(epoch=trainer.current_epoch, step=trainer.global_step)
        due, last = self._due(trainer), trainer.is_last_batch or _validates_after(trainer, batch_idx)
        self._steady = trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if last:
            self._before_validation = self._everyones_state()
        if due and self._steady and not last:
            if due == _STOP:
                # The trainer logs a step after this hook, which a run that leaves here would not reach.
                log_training_step(trainer)
            self._save(trainer, "batch") if due == _SAVE else self._stop(trainer, "batch")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep listening."""
        self.signals.listen()

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Stop where it is time to; the run that goes on validates from the start."""
        if not trainer.sanity_checking and self._due(trainer) == _STOP:
            if trainer.state.fn != "fit":
                self._leave(trainer)
            if self._steady:
                self._stop(trainer, "validation")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the trained network, so that nothing after this can make it be trained again."""
        self._state["ended_early"] = trainer.should_stop
        self._save(trainer, "end")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep listening."""
        self.signals.listen()

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Stop where it is time to; the run that goes on tests from the start."""
        if self._due(trainer) == _STOP:
            self._leave(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the trainer's progress as of a moment that it can go on from."""
        moment = self.state_dict().get("moment")
        if moment == "validation":  # what its metrics have seen is not saved
            as_before_validation(checkpoint)
        elif moment == "epoch":
            as_before_epoch(checkpoint)

    def _due(self, trainer: pl.Trainer) -> int:
        late = trainer.is_global_zero and time.monotonic() - self._saved > self.every_n_seconds
        return self._ranks.highest(_STOP if self.asked_to_stop else _SAVE if late else 0)

    def _stop(self, trainer: pl.Trainer, moment: Moment) -> None:
        self._save(trainer, moment)
        self._leave(trainer)

    def _save(self, trainer: pl.Trainer, moment: Moment) -> None:
        self._state["moment"] = moment
        self._state["now"] = self._before_validation if moment == "validation" else self._everyones_state()
        # The trainer logs a step after the hook that saves: its row comes behind the mark, and is not logged again.
        step = logged_step(trainer) if moment == "batch" else -1
        self._state["logged"] = [(logger.mark(), step) for logger in _csv(trainer)]
        self._state["metrics"] = {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()}
        self._saving = True
        try:
            if trainer.is_global_zero:
                with atomic(self.path) as temporary:
                    trainer.save_checkpoint(temporary)
            else:
                trainer.save_checkpoint(self.path)
        finally:
            self._saving = False
        self._saved = time.monotonic()

    def _leave(self, trainer: pl.Trainer) -> None:
        number = self._ranks.highest(self.signals.received)
        raise self.signals.stopped(number, f"at step {trainer.global_step}, saved in {self.path}")

    def _everyones_state(self) -> list[dict[str, Any]]:
        return self._ranks.everyones(random_state())

    def _matches(self, trainer: pl.Trainer) -> bool:
        return len(self._loaded["now"]) == trainer.world_size

    def _find_place(self, trainer: pl.Trainer) -> None:
        """Draw the batches that were trained on before the run was saved, and set the random generators."""
        rank = trainer.global_rank
        if not self._matches(trainer):
            warnings.warn(
                f"The run was saved by {len(self._loaded['now'])} processes and goes on with {trainer.world_size}: "
                "the order of this epoch's samples is not that of a run that was never stopped.",
                stacklevel=2,
            )
            self._loaded, self._state = {}, {"began": self._everyones_state(), "first": False}
            return
        epoch, state, self._loaded = OpenEpoch(trainer), self._loaded, {}
        trainer.callback_metrics.update(state["metrics"])
        if not state["first"]:
            # The trainer opened the loader before it knew which epoch this is.
            set_random_state(state["began"][rank])
            epoch.begin_again(trainer.current_epoch)
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if done < trainer.num_training_batches:
            epoch.skip(done)
        if state["moment"] != "epoch":
            set_random_state(state["now"][rank])
        self._state = {"began": state["began"], "first": state["first"]}


def _csv(trainer: pl.Trainer) -> list[ContinuedCsvLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, ContinuedCsvLogger)]


def _validates_after(trainer: pl.Trainer, batch_idx: int) -> bool:
    every = trainer.val_check_batch
    return every is not None and every != float("inf") and (batch_idx + 1) % every == 0
