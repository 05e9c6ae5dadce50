"""A run that is stopped anywhere, and goes on, ends as the run that was never stopped, bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from layerprobe.training.continued_loggers import ContinuedCsvLogger
from layerprobe.training.resume import Guard
from layerprobe.training.signals import Stopped

HOOKS = (
    "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_batch_end", "on_validation_start",
    "on_validation_batch_end", "on_validation_end", "on_train_epoch_end", "on_train_end", "on_test_batch_end",
)  # fmt: skip


class Noisy(Dataset):  # type: ignore[type-arg]
    """Every reading of a sample draws from global generators, as augmentations do.

    Not from Python's own: the run-time type checks of these tests draw from it themselves.
    """

    def __init__(self, seed: int, n: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.y = torch.arange(n) % 2
        self.x = torch.randn(n, 6, generator=generator) + self.y[:, None]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn(6) + 0.1 * float(np.random.randn())
        return self.x[i] + noise, self.y[i]


class Data(pl.LightningDataModule):
    def __init__(self, n: int, num_workers: int) -> None:
        super().__init__()
        self.n, self.num_workers = n, num_workers

    def _loader(self, seed: int, shuffle: bool = False) -> DataLoader:  # type: ignore[type-arg]
        return DataLoader(Noisy(seed, self.n), batch_size=8, shuffle=shuffle, num_workers=self.num_workers)

    def train_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        return self._loader(0, shuffle=True)

    def val_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        return self._loader(1)

    def test_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        return self._loader(2)


class Learner(pl.LightningModule):
    """Dropout, BatchNorm, a schedule; writes down every step and every end."""

    def __init__(self, events: list[Any]) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
        self.events = events

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.events.append(("step", self.current_epoch, batch_idx, self.global_step, loss.item()))
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def on_train_epoch_end(self) -> None:
        val = float(self.trainer.callback_metrics.get("val", -1))
        self.events.append(("epoch", self.current_epoch, self.global_step, val))

    def on_train_end(self) -> None:
        self.events.append("end")

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)]


class Kick(pl.Callback):
    """Sends this process a signal in its k-th hook."""

    def __init__(self, k: int, number: int = signal.SIGTERM) -> None:
        self.k, self.number, self.count = k, number, 0

    def hit(self) -> None:
        if self.count == self.k:
            os.kill(os.getpid(), self.number)
        self.count += 1


def _hook() -> Callable[..., None]:
    return lambda self, trainer, module, *args: self.hit()


for name in HOOKS:
    setattr(Kick, name, _hook())


class Rows(DummyLogger):
    """Keeps the steps at which the training loss is logged."""

    def __init__(self, steps: list[int]) -> None:
        super().__init__()
        self.steps = steps

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:  # type: ignore[override]
        self.steps += [step] if "loss" in metrics else []


def run(
    directory: Path, kick: Kick, n: int = 24, num_workers: int = 0, logger: Any = False, more: Any = (), **options: Any
) -> dict[str, Any] | None:
    """Train and test, from where the directory has got to; None where it was stopped."""
    pl.seed_everything(7, workers=True, verbose=False)
    events: list[Any] = []
    guard, learner = Guard(directory / "last.ckpt"), Learner(events)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=logger, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[kick, guard, *(made(directory) for made in more)], num_sanity_val_steps=0,
        **{"enable_checkpointing": False, **options},
    )  # fmt: skip
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)}
    data = Data(n, num_workers)
    try:
        trainer.fit(learner, datamodule=data, ckpt_path=guard.path if guard.path.exists() else None)
        trainer.test(learner, datamodule=data, verbose=False)
        weights = learner.state_dict()
    except Stopped:
        weights = {}
    finally:
        assert {number: signal.getsignal(number) for number in before} == before, "the signals were not given back"
    test = float(trainer.callback_metrics["test"]) if weights else None
    return {"events": events, "weights": weights, "test": test}


def whole(directory: Path, **options: Any) -> tuple[dict[str, Any], int]:
    kick = Kick(-1)
    found = run(directory, kick, **options)
    assert found is not None and found["weights"]
    return found, kick.count


def resumed(directory: Path, ks: list[int], number: int = signal.SIGTERM, **options: Any) -> dict[str, Any]:
    """Run, stop at each of these hooks in turn, and go on to the end."""
    events: list[Any] = []
    for k in [*ks, -1]:
        found = run(directory, Kick(k, number), **options)
        events += found["events"]
        if found["weights"]:
            break
    return found | {"events": events}


def check_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["events"] == expected["events"]
    assert found["test"] == expected["test"]
    assert all(torch.equal(value, found["weights"][name]) for name, value in expected["weights"].items())


SETTINGS = [
    ({"n": 16}, 1),
    ({"n": 16, "check_val_every_n_epoch": 2}, 3),
    ({"n": 8, "check_val_every_n_epoch": 3}, 2),
    ({"n": 24, "val_check_interval": 2}, 4),
    ({"n": 32, "accumulate_grad_batches": 2}, 5),
    ({"n": 24, "num_workers": 2}, 17),
]


@pytest.mark.parametrize(("options", "every"), SETTINGS, ids=lambda value: str(value))
def test_stopped_in_any_hook(tmp_path: Path, options: dict[str, Any], every: int) -> None:
    expected, hooks = whole(tmp_path / "whole", **options)
    for k in range(0, hooks, every):
        check_same(resumed(tmp_path / str(k), [k], **options), expected)


def test_stopped_many_times(tmp_path: Path) -> None:
    expected, _ = whole(tmp_path / "whole")
    check_same(resumed(tmp_path / "stopped", [5, 6, 9, 0, 12]), expected)


def _stops_early(directory: Path) -> pl.Callback:
    return EarlyStopping("val", patience=1, min_delta=10.0)


def _keeps(directory: Path) -> pl.Callback:
    return ModelCheckpoint(
        directory / "kept", "{step}", monitor="loss", save_top_k=2, every_n_train_steps=1, enable_version_counter=False
    )


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("options", [{"n": 24}, {"n": 24, "val_check_interval": 2}])
def test_early_stopping_and_kept_checkpoints_are_those_of_a_run_that_was_not_stopped(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    options |= {"more": [_stops_early, _keeps], "enable_checkpointing": True}
    expected, hooks = whole(tmp_path / "whole", **options)
    assert expected["events"][-1] == "end" and max(event[1] for event in expected["events"][:-1]) < 2, "stops early"
    kept = {file.name: torch.load(file)["state_dict"] for file in (tmp_path / "whole" / "kept").iterdir()}
    assert len(kept) == 2
    for k in range(1, hooks, 3):
        check_same(resumed(tmp_path / str(k), [k], **options), expected)
        files = sorted((tmp_path / str(k) / "kept").iterdir())
        assert [file.name for file in files] == sorted(kept)
        for file in files:
            state = torch.load(file)["state_dict"]
            assert all(torch.equal(value, state[name]) for name, value in kept[file.name].items())


@pytest.mark.parametrize("every", [1, 2])
def test_no_logged_step_is_lost(tmp_path: Path, every: int) -> None:
    """Also of the step that the run stops after, where that one is to be logged."""
    options: dict[str, Any] = {"n": 40, "log_every_n_steps": every}
    expected: list[int] = []
    _, hooks = whole(tmp_path / "whole", logger=Rows(expected), **options)
    assert expected == list(range(every - 1, 15, every))
    for k in range(0, hooks, 3):
        steps: list[int] = []
        resumed(tmp_path / str(k), [k], logger=Rows(steps), **options)
        assert steps == expected


class Killed(Exception):
    """Ends a run as a kill would: nothing is saved on the way."""


class Die(pl.Callback):
    def __init__(self, k: int) -> None:
        self.k, self.count = k, 0

    def hit(self) -> None:
        self.count += 1
        if self.count == self.k:
            raise Killed


for name in HOOKS:
    setattr(Die, name, _hook())


def killed(directory: Path, k: int, every_n_steps: int, **options: Any) -> bool:
    """Train, test and log until the k-th hook, saving every few steps; whether it came to that."""

    class Saves(Guard):
        def _due(self, trainer: pl.Trainer) -> int:
            return int(trainer.global_step % every_n_steps == 0)

    pl.seed_everything(7, workers=True, verbose=False)
    guard, logger = Saves(directory / "last.ckpt"), ContinuedCsvLogger(directory)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=logger, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Die(k), guard], num_sanity_val_steps=0, **options,
    )  # fmt: skip
    learner, data = Learner([]), Data(40, 0)
    try:
        trainer.fit(learner, datamodule=data, ckpt_path=guard.path if guard.path.exists() else None)
        trainer.test(learner, datamodule=data, verbose=False)
    except Killed:
        return True
    logger.finalize("success")
    return False


@pytest.mark.parametrize("every_n_steps", [1, 2, 4, 100])
@pytest.mark.parametrize("options", [{"log_every_n_steps": 1}, {"log_every_n_steps": 2, "val_check_interval": 3}])
def test_a_killed_run_leaves_the_rows_of_one_that_was_not(
    tmp_path: Path, every_n_steps: int, options: dict[str, Any]
) -> None:
    """No row twice, none lost, wherever the kill falls and however long before it the run was saved."""

    def rows(directory: Path) -> list[str]:
        return (directory / "csv" / "metrics.csv").read_text().splitlines()

    assert not killed(tmp_path / "whole", -1, 100, **options)
    expected, repeated = rows(tmp_path / "whole"), 0
    for k in range(3, 80, 7):
        if not killed(tmp_path / str(k), k, every_n_steps, **options):
            break
        before = len(rows(tmp_path / str(k))) if (tmp_path / str(k) / "csv" / "metrics.csv").exists() else 0
        assert not killed(tmp_path / str(k), -1, every_n_steps, **options)
        assert rows(tmp_path / str(k)) == expected
        repeated += before
    assert k > 40
    assert repeated


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGINT])
def test_other_signals(tmp_path: Path, number: int) -> None:
    expected, _ = whole(tmp_path / "whole")
    check_same(resumed(tmp_path / "stopped", [7], number), expected)


def test_saved_from_time_to_time_and_killed(tmp_path: Path) -> None:
    """A kill loses what came after the last saving; what is trained again is the same."""

    class DieAtStepFive(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == 5:
                raise Killed

    expected, _ = whole(tmp_path / "whole")
    events: list[Any] = []
    pl.seed_everything(7, workers=True, verbose=False)
    guard = Guard(tmp_path / "last.ckpt", every_n_seconds=0.0)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[DieAtStepFive(), guard], num_sanity_val_steps=0,
    )  # fmt: skip
    with pytest.raises(Killed):
        trainer.fit(Learner(events), datamodule=Data(24, 0))
    rest = run(tmp_path, Kick(-1))
    assert rest["events"][0][3] == 4, "saved after step 4"
    check_same(rest | {"events": events[:-1] + rest["events"]}, expected)


def test_a_run_without_the_place_in_the_epoch_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = whole(tmp_path / "whole")
    monkeypatch.setattr(Guard, "_find_place", lambda self, trainer: None)
    with pytest.raises(AssertionError):
        check_same(resumed(tmp_path / "stopped", [7]), expected)


def test_two_interrupts_end_at_once(tmp_path: Path) -> None:
    class Impatient(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)

    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Impatient(), Guard(tmp_path / "last.ckpt")], num_sanity_val_steps=0,
    )  # fmt: skip
    with pytest.raises(SystemExit) as error:
        trainer.fit(Learner([]), datamodule=Data(16, 0))
    assert not isinstance(error.value, Stopped)
