"""Torch's default device, as a program may have set it: probing makes its own tensors on the CPU.

The meta device stands for one that is not the data's: what is made on it has no values.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import layerprobe
from layerprobe.probing.cost.plan import make_plan
from layerprobe.probing.protocol import ProbeProtocol

META = torch.device("meta")


@pytest.fixture(autouse=True)
def default_device_kept() -> Iterator[None]:
    yield
    torch.set_default_device(None)


def _check(expected: torch.device | None) -> None:
    """Fail where the default device is another one."""
    if expected is not None and torch.get_default_device() != expected:
        raise AssertionError(f"the default device is {torch.get_default_device()}")


class Net(nn.Module):
    """Fails under another default device than expected. (What it noted in a pass would be put back.)"""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        self.expected: torch.device | None = None

    def forward(self, x: Tensor) -> Tensor:
        _check(self.expected)
        found: Tensor = self.layers(x)
        return found


class Samples(Dataset[Any]):
    """Likewise."""

    def __init__(self, x: Tensor, y: Tensor, expected: torch.device | None = None) -> None:
        self.x, self.y, self.expected = x, y, expected

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        _check(self.expected)
        return self.x[i], self.y[i]


def _data() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(120, 6, generator=draws)
    return x, (x[:, :3] + 0.5 * torch.randn(120, 3, generator=draws)).argmax(1)


def _net() -> Net:
    torch.manual_seed(0)
    return Net()


ASKED: list[dict[str, Any]] = [
    {
        "layers": "1", "controls": ["control_task", "shuffled"], "metrics": "all", "scores": True, "path": "full",
        "analyses": [
            "nearest_mean", "few_shot", "knn", layerprobe.MLP(seeds=1), "description_length",
            layerprobe.Stability(divisions=1), "v_information",
        ],
    },
    {"granularity": "ops", "reducer": ["flatten", layerprobe.RandomSubset(3)], "solver": ["logistic", "ridge"]},
    {"task": "regression", "targets": lambda batch: batch[0][:, :2]},
    {"task": "multi_label", "targets": lambda batch: (batch[0][:, :2] > 0).long()},
]  # fmt: skip


@pytest.mark.parametrize(("asked", "how"), [*((asked, "set") for asked in ASKED), (ASKED[1], "with")])
def test_probing_does_the_same_under_any_default_device(asked: dict[str, Any], how: str) -> None:
    expected = layerprobe.probe(_net(), _data(), **asked)
    network, (x, y) = _net(), _data()
    network.expected = META
    if how == "set":
        torch.set_default_device(META)
        found = layerprobe.probe(network, (x, y), **asked)
    else:
        with META:
            found = layerprobe.probe(network, (x, y), **asked)
            assert torch.get_default_device() == META
    pd.testing.assert_frame_equal(
        *(pd.DataFrame(each).drop(columns="seconds") for each in (found, expected)), check_exact=True
    )
    metrics = (each.metrics[~each.metrics["metric"].str.contains("seconds")] for each in (found, expected))
    pd.testing.assert_frame_equal(*metrics, check_exact=True)


def test_networks_and_data_keep_the_programs_default_device() -> None:
    x, y = _data()
    expected = layerprobe.probe(_net(), Samples(x, y))
    network = _net()
    network.expected = META
    torch.set_default_device(META)

    def targets(batch: Any) -> Any:
        _check(META)
        return batch[1]

    results = layerprobe.probe(network, Samples(x, y, META), targets=targets)
    assert torch.get_default_device() == META
    assert results["test_error"].tolist() == expected["test_error"].tolist()


def test_a_head_reads_a_network_under_any_default_device() -> None:
    x, y = _data()
    network = _net()
    head = layerprobe.probe(network, (x, y)).heads["1"]
    expected, scores, features = head.predict(network, x), head.predict_proba(network, x), head.features(network, x)
    with head.erased(network, x, y):
        erased = network(x)
    torch.set_default_device(META)
    assert torch.equal(head.predict(network, x), expected)
    assert torch.equal(head.predict_proba(network, x), scores)
    assert torch.equal(head.features(network, x), features)
    with head.erased(network, x, y):
        assert torch.equal(network(x), erased)


def test_layers_activations_and_plans_are_made_under_any_default_device() -> None:
    x, y = _data()
    network = _net()
    listed, made = layerprobe.layers(network, x).frame, layerprobe.activations(network, x)
    torch.set_default_device(META)
    assert layerprobe.layers(network, x).frame.equals(listed)
    found = layerprobe.activations(network, x)
    assert found.keys() == made.keys()
    assert all(torch.equal(found[name], made[name]) for name in made)
    plan = make_plan(network, {"train": (x, y), "val": (x, y), "test": (x, y)}, ProbeProtocol())
    assert plan.layers


class Module(pl.LightningModule):
    """Trains on data that are on the CPU, whatever the default device is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _net()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)
        return found

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Sets(pl.Callback):
    """Sets the default device while networks are probed: Lightning itself cannot train with that of meta."""

    def __init__(self, device: torch.device | None) -> None:
        self.device = device

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.set_default_device(self.device)

    def on_train_batch_start(self, *args: Any) -> None:
        torch.set_default_device(None)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.set_default_device(self.device)


def test_the_callback_probes_under_any_default_device(tmp_path: Path) -> None:
    x, y = _data()
    found = []
    for default in (None, META):
        module, splits = Module(), {"train": (x, y), "val": (x, y), "test": (x, y)}
        probe = layerprobe.ProbeCallback(directory=tmp_path / str(default), data=splits)
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[Sets(default), probe],
        )  # fmt: skip
        trainer.fit(module, DataLoader(Samples(x, y), batch_size=40))
        torch.set_default_device(None)
        found.append(probe.results()["test_error"].tolist())
    assert len(found[0]) == 8
    assert found[0] == found[1]
