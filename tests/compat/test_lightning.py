"""What the private names of Lightning are used for; a release that changes one of them fails here."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from layerprobe.compat import lightning as compat


class Counted(Sampler[int]):
    """Draws eight samples from 100 times the epoch on."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        return iter(range(100 * self.epoch, 100 * self.epoch + 8))

    def __len__(self) -> int:
        return 8


class Numbers(Dataset[Tensor]):
    def __getitem__(self, i: int) -> Tensor:
        return torch.tensor([float(i)])

    def __len__(self) -> int:
        return 1000


class Learner(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[int] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append(int(batch[0]))
        self.log("batch", float(batch_idx))
        return 0.0 * self.layer(batch).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(Numbers(), batch_size=2, sampler=Counted())

    def val_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(Numbers(), batch_size=2, sampler=Counted())


class Rows(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, float]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows += [(step, metrics["batch"])] if "batch" in metrics else []


def trainer_of(path: Path, rows: Rows, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    usual = {"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 0}
    return pl.Trainer(logger=rows, callbacks=[*callbacks], default_root_dir=path, **(quiet | usual | options))


def fitted(path: Path, *callbacks: pl.Callback, ckpt_path: Path | None = None, **options: Any) -> Learner:
    learner = Learner()
    trainer_of(path, Rows(), *callbacks, **options).fit(learner, ckpt_path=ckpt_path)
    return learner


class Left(Exception):
    pass


def test_an_epoch_begins_again_and_batches_are_skipped(tmp_path: Path) -> None:
    class Skips(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            epoch = compat.OpenEpoch(trainer)
            epoch.begin_again(7)
            epoch.skip(2)

    learner = fitted(tmp_path, Skips(), limit_val_batches=0, max_steps=3)
    assert learner.seen[:2] == [704, 706]


def test_an_epoch_is_open_only_when_training_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on_train_start"):
        compat.OpenEpoch(pl.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path))


def test_a_training_step_is_logged_at_once(tmp_path: Path) -> None:
    class Leaves(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == 2:
                before = list(rows.rows)
                compat.log_training_step(trainer)
                assert rows.rows == [*before, (compat.logged_step(trainer), 1.0)]
                raise Left

    rows = Rows()
    trainer = trainer_of(tmp_path, rows, Leaves(), limit_val_batches=0)
    with pytest.raises(Left):
        trainer.fit(Learner())
    assert rows.rows == [(0, 0.0), (1, 1.0)]


def test_a_sigterm_is_forgotten(tmp_path: Path) -> None:
    class Warned(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            assert trainer.received_sigterm
            compat.forget_sigterm(trainer)
            assert not trainer.received_sigterm

    learner = fitted(tmp_path, Warned(), limit_val_batches=0, limit_train_batches=1)
    assert learner.seen == [0, 100]


@pytest.mark.parametrize("moment", ["epoch", "validation"])
def test_a_run_goes_on_from_a_checkpoint_of_the_moment(tmp_path: Path, moment: str) -> None:
    file = tmp_path / "last.ckpt"

    class Saves(pl.Callback):
        def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
            change = compat.as_before_epoch if moment == "epoch" else compat.as_before_validation
            change(checkpoint)

        def _save(self, trainer: pl.Trainer) -> None:
            trainer.save_checkpoint(file)
            raise Left

        def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
            if moment == "epoch" and trainer.current_epoch == 1:
                self._save(trainer)

        def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if moment == "validation":
                self._save(trainer)

    class Validations(pl.Callback):
        def __init__(self) -> None:
            self.batches: list[tuple[int, int]] = []

        def on_validation_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, i: int, *args: Any) -> None:
            self.batches.append((trainer.current_epoch, i))

    with pytest.raises(Left):
        fitted(tmp_path, Saves())
    rest = Validations()
    learner = fitted(tmp_path, rest, ckpt_path=file)
    assert learner.seen == [100, 102, 104, 106]
    first = [(0, i) for i in range(4)] if moment == "validation" else []
    assert rest.batches == [*first, *((1, i) for i in range(4))]


def test_the_options_of_a_wandb_run_are_changed_and_the_run_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr("wandb.init", lambda **options: started.append(options))
    monkeypatch.setattr("wandb.run", None)
    logger = WandbLogger(save_dir=tmp_path, project="p", mode="online", prefix="mine")
    compat.wandb_options(logger)["mode"] = "offline"
    _ = logger.experiment
    compat.forget_run(logger)
    _ = logger.experiment
    assert [(options["mode"], options["project"]) for options in started] == [("offline", "p")] * 2


def test_rows_of_an_earlier_process_are_kept(tmp_path: Path) -> None:
    for step in range(2):
        writer = compat.KeptCsvWriter(str(tmp_path))
        writer.log_metrics({"loss": 0.5 + step}, step)
        writer.save()
    assert (tmp_path / "metrics.csv").read_text().split() == ["loss,step", "0.5,0", "1.5,1"]
    with pytest.warns(UserWarning, match="will be deleted"):
        ExperimentWriter(str(tmp_path))
    assert not (tmp_path / "metrics.csv").exists(), "what the subclass is there for"
