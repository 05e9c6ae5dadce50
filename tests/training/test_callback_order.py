"""Callbacks of others that write to the network: what is frozen is what they leave, wherever they stand in the list."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, ModelPruning
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from helpers.small_module import Net
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.training.callback import ProbeCallback
from layerprobe.training.checkpoints import load
from layerprobe.training.resume import Guard


class Averaged(pl.Callback):
    """Leaves the average of the weights of all steps, as Lightning's own averaging does from version 2.6 on."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.average = torch.optim.swa_utils.AveragedModel(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        self.average.update_parameters(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.load_state_dict(self.average.module.state_dict())


class Clipped(pl.Callback):
    """Bounds every weight after each step and each epoch, and keeps what it left."""

    def __init__(self) -> None:
        self.left: dict[str, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        self._clip(pl_module, 0.25, f"step_{trainer.global_step}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clip(pl_module, 0.2, f"epoch_{trainer.current_epoch + 1}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clip(pl_module, 0.1, "final")

    def _clip(self, module: pl.LightningModule, bound: float, name: str) -> None:
        with torch.no_grad():
            for weight in module.parameters():
                weight.clamp_(-bound, bound)
        self.left[name] = {key: value.clone() for key, value in module.state_dict().items()}


def fit(directory: Path, other: pl.Callback, *, behind: bool) -> Net:
    pl.seed_everything(0, verbose=False)
    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(1))
    split = TensorDataset(x, (x[:, 0] > 0).long())
    data = {name: DataLoader(split, batch_size=30) for name in ("train", "val", "test")}
    protocol = ProbeProtocol(l2=(1e-2,))
    probe = ProbeCallback(protocol, directory=directory, data=data, every_n_epochs=1, steps=[2])
    ours = [probe, Guard(directory / "last.ckpt")]
    kept = ModelCheckpoint(directory / "kept", save_last=True)
    module = Net()
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[*ours, kept, other] if behind else [other, *ours, kept],
    )  # fmt: skip
    trainer.fit(module, DataLoader(split, batch_size=30))
    return module


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("make", [Averaged, lambda: ModelPruning("l1_unstructured", amount=0.5)])
def test_the_final_network_is_the_one_that_training_leaves(tmp_path: Path, make) -> None:
    module = fit(tmp_path, make(), behind=True)
    assert same(load(tmp_path / "checkpoints" / "final.ckpt").state_dict, module.state_dict())
    last = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert same(last, module.state_dict()), "a run that goes on after training would go on with another network"


@pytest.mark.parametrize("behind", [False, True])
def test_a_frozen_network_is_the_one_that_a_step_or_an_epoch_leaves(tmp_path: Path, behind: bool) -> None:
    other = Clipped()
    fit(tmp_path, other, behind=behind)
    for name in ("step_2", "epoch_1", "final"):
        assert same(load(tmp_path / "checkpoints" / f"{name}.ckpt").state_dict, other.left[name]), name
