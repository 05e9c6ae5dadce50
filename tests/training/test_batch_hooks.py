"""Lightning's batch hooks, which training, validation and probing see alike."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import layerprobe
from layerprobe.probing.getters import Item
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.training.batch_hooks import with_batch_hooks

L2 = (1e-3, 1e-1)
PROTOCOL = ProbeProtocol(l2=L2, inputs=Item("x"), targets=Item("y"))


def pairs() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for split, n in (("train", 90), ("val", 40), ("test", 50)):
        x = torch.randn(n, 5, generator=generator)
        found[split] = x, (x[:, :2].abs().sum(1) + 0.3 * torch.randn(n, generator=generator) > 1.4).long()
    return found


def normalised(x: Tensor) -> Tensor:
    """What the hook does: the classes are nearly linear in it, and hardly so in what the loader gives."""
    return x.abs() - 0.5


class Rows(Dataset[Any]):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": self.x[i], "y": self.y[i], "name": str(i)}


class Data(pl.LightningDataModule):
    def loader(self, split: str) -> DataLoader[Any]:
        return DataLoader(Rows(*pairs()[split]), batch_size=16, shuffle=split == "train")

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader("test")


class Hooks:
    """Normalises, and augments where it is trained; the batch comes in a form that the network does not take."""

    augmented, calls = 0, 0
    trainer: Any

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {"x": [batch["x"]], "y": batch["y"]}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        (x,) = batch["x"]
        self.calls += 1
        if self.trainer.training:
            self.augmented += 1
            x = x + torch.randn_like(x)
        return {"x": normalised(x), "y": batch["y"]}


class HookedData(Hooks, Data):
    pass


class Network(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["x"]), batch["y"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert isinstance(batch["x"], Tensor)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class HookedNetwork(Hooks, Network):
    pass


def train(network: Network, data: Data, *callbacks: pl.Callback) -> Network:
    pl.seed_everything(1, verbose=False)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(network, datamodule=data)
    return network


def expected(network: nn.Module) -> layerprobe.ProbeResults:
    plain = {split: (normalised(x), y) for split, (x, y) in pairs().items()}
    return layerprobe.probe(network, plain, l2=L2, batch_size=16)


def same(found: layerprobe.ProbeResults, other: layerprobe.ProbeResults) -> None:
    pd.testing.assert_frame_equal(pd.DataFrame(found)[FIGURES], pd.DataFrame(other)[FIGURES])
    np.testing.assert_allclose(found.heads["input"].weight, other.heads["input"].weight, rtol=1e-6)


FIGURES = ["layer", "n_train", "val_error", "test_error", "test_loss", "l2"]


@pytest.mark.filterwarnings("ignore:You have overridden")
@pytest.mark.parametrize("hooked", ["network", "data"])
def test_a_run_probes_what_validation_sees_and_trains_as_without(tmp_path: Path, hooked: str) -> None:
    def made() -> tuple[Network, Data]:
        torch.manual_seed(0)
        return (HookedNetwork(), Data()) if hooked == "network" else (Network(), HookedData())

    network, data = made()
    probed = train(network, data, layerprobe.ProbeCallback(PROTOCOL, directory=tmp_path))
    alone, alone_data = made()
    train(alone, alone_data)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, probed.state_dict()[name])
    of, of_alone = (data, alone_data) if hooked == "data" else (network, alone)
    assert (of.augmented, of.calls) == (of_alone.augmented, of_alone.calls) == (6, 6 + 3 + 2)
    final = layerprobe.load(tmp_path)
    same(final, expected(network))
    plain = layerprobe.probe(network, pairs(), l2=L2)
    assert final["test_error"].iloc[0] < plain["test_error"].iloc[0] - 0.1


def test_a_data_module_given_in_python_has_its_hooks_and_explicit_pairs_have_none() -> None:
    torch.manual_seed(0)
    network = Network()
    found = layerprobe.probe(network, HookedData(), inputs="x", targets="y", l2=L2, batch_size=16)
    same(found, expected(network))
    hooked = HookedNetwork()
    hooked.load_state_dict(network.state_dict())
    same(*(layerprobe.probe(one, pairs(), l2=L2, batch_size=16) for one in (hooked, network)))


def test_the_script_calls_them_too(tmp_path: Path) -> None:
    script, name = Path(__file__).parents[2] / "scripts" / "probe.py", Path(__file__).stem
    words = [
        f"+model._target_={name}.Network", f"+data._target_={name}.HookedData", "inputs=item", "inputs.path=x",
        "targets=item", "targets.path=y", "logger=none", "report.figures=false", f"run_dir={tmp_path}/run",
        "probe.l2=[1e-3,1e-1]", "trainer.accelerator=cpu",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, str(script), *words], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found = layerprobe.load(tmp_path / "run")
    assert found["test_error"].iloc[0] == expected(nn.Identity())["test_error"].iloc[0]


def test_nothing_is_asked_where_there_are_none() -> None:
    assert with_batch_hooks(PROTOCOL, Network(), Data()) is PROTOCOL
    assert with_batch_hooks(PROTOCOL, nn.Identity(), None) is PROTOCOL
