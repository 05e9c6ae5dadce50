"""A training run with the callback is the run without it, bit for bit."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from helpers import forked
from helpers.ranks import together
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.training.callback import ProbeCallback


class Noisy(Dataset):  # type: ignore[type-arg]
    """Two blobs; every reading of a sample adds noise from the global generators, as augmentations do."""

    def __init__(self, seed: int, n: int = 48) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.y = torch.arange(n) % 2
        self.x = torch.randn(n, 1, 6, 6, generator=generator) + self.y[:, None, None, None]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i] + 0.1 * torch.randn(1, 6, 6) + 0.1 * float(np.random.randn()), self.y[i]


class NoisyData(pl.LightningDataModule):
    def __init__(self, num_workers: int) -> None:
        super().__init__()
        self.num_workers = num_workers

    def setup(self, stage: str) -> None:
        self.splits = {"train": Noisy(0), "val": Noisy(1), "test": Noisy(2)}

    def _loader(self, split: str, shuffle: bool = False) -> DataLoader:  # type: ignore[type-arg]
        return DataLoader(self.splits[split], batch_size=8, shuffle=shuffle, num_workers=self.num_workers)

    def train_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        return self._loader("test")


class Learner(pl.LightningModule):
    """Dropout, BatchNorm (one of them kept in eval mode), in-place activations, noise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.3),
            nn.Flatten(),
            nn.Linear(144, 8),
            nn.BatchNorm1d(8),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(8, 2),
        )
        self.seen: list[Tensor] = []
        self.steps: list[tuple[int, float]] = []

    def on_train_epoch_start(self) -> None:
        self.net[6].eval()
        self.net[5].weight.requires_grad_(self.current_epoch > 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        self.seen.append(x.clone())
        loss = nn.functional.cross_entropy(self(x), y)
        self.steps.append((self.global_step, loss.item()))
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


SOME = ("1", "6", "9")


def train(
    tmp_path: Path, num_workers: int, *, layers: str | tuple[str, ...] = "*", processes: int = 1, **options: Any
) -> dict[str, Any]:
    pl.seed_everything(7, workers=True, verbose=False)
    learner, data = Learner(), NoisyData(num_workers)
    callbacks = []
    if options:
        protocol = ProbeProtocol(l2=(1e-3, 1e-1), layers=layers, seeds=(3,), controls=("shuffled",))
        if processes > 1:
            protocol = replace(protocol, layers=SOME, solvers=(Ridge(),))
        callbacks = [ProbeCallback(protocol, directory=tmp_path, **options)]
    trainer = pl.Trainer(
        max_epochs=3 if processes == 1 else 1,
        accelerator="cpu",
        devices=processes,
        strategy="ddp_find_unused_parameters_true" if processes > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=2,
        callbacks=callbacks,
    )
    trainer.fit(learner, datamodule=data)
    return {
        "weights": learner.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict()["state"],
        "batches": learner.seen,
        "steps": learner.steps,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "global_step": trainer.global_step,
        "modes": [module.training for module in learner.modules()],
        "grads": [parameter.requires_grad for parameter in learner.parameters()],
        "random": (torch.get_rng_state(), np.random.get_state()[1].tolist(), torch.backends.cudnn.benchmark),
        "probed": callbacks[0].results()["checkpoint"].unique().tolist() if callbacks else [],
    }


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


@pytest.fixture(scope="module")
def unprobed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """The training without the callback, by the number of workers; once for each."""
    return cache(lambda num_workers: train(tmp_path_factory.mktemp("unprobed"), num_workers))


WHOLE = {"every_n_epochs": 1, "every_n_steps": 4, "before_training": True, "at_end": True}


@pytest.mark.parametrize(
    ("workers", "when", "layers"),
    [
        (0, "now", "*"),
        (0, "end", SOME),
        (2, "now", SOME),
        pytest.param(0, "end", "*", marks=pytest.mark.slow(seconds=20)),
        pytest.param(2, "now", "*", marks=pytest.mark.slow(seconds=50)),
    ],
)
def test_training_is_bit_identical(
    tmp_path: Path, unprobed: Callable[[int], dict[str, Any]], workers: int, when: str, layers: str | tuple[str, ...]
) -> None:
    probed = train(tmp_path, workers, layers=layers, when=when, **WHOLE)
    order = ["initial", "step_4", "epoch_1", "step_8", "step_12", "epoch_2", "step_16", "final"]
    assert probed["probed"] == order
    for name, value in unprobed(workers).items():
        assert name == "probed" or same(value, probed[name]), name


@pytest.mark.slow
def test_training_of_two_processes_is_bit_identical(tmp_path: Path) -> None:
    """In each of them, in the middle of an epoch too, where their averages of batch normalisation differ."""
    # No process can differentiate that is forked from one that has: the two are forked from this file as a script.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ended = forked.run([sys.executable, __file__, str(tmp_path)], cwd=tmp_path, env=environment)
    assert ended.returncode == 0, ended.stderr


def two_processes(folder: Path) -> None:
    """Train with and without the callback, and compare."""

    def work(rank: int) -> list[dict[str, Any]]:
        probed = [train(folder / when, 0, processes=2, when=when, steps=(2,)) for when in ("now", "end")]
        return [train(folder, 0, processes=2), *probed]

    for alone, *others in together(2, folder / "ranks", work):
        alone.pop("probed")
        for probed in others:
            assert probed.pop("probed") == ["initial", "step_2", "final"]
            for name, value in alone.items():
                assert same(value, probed[name]), name


def test_a_callback_that_draws_one_number_is_noticed(tmp_path: Path) -> None:
    class Careless(ProbeCallback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            torch.rand(1)

    alone = train(tmp_path, 0)
    pl.seed_everything(7, workers=True, verbose=False)
    learner = Learner()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Careless(directory=tmp_path, at_end=False)],
    )
    trainer.fit(learner, datamodule=NoisyData(0))
    assert not same(alone["batches"][0], learner.seen[0])


if __name__ == "__main__":
    two_processes(Path(sys.argv[1]))
