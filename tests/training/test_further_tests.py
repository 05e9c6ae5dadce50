"""Further test sets of a Lightning run: of the callback, of data modules with several loaders, of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from helpers.command import ROOT
from layerprobe.config import register
from layerprobe.jobs.configured_test_sets import without_tests
from layerprobe.jobs.probe import Builder
from layerprobe.probing import batches
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.training.callback import ProbeCallback
from layerprobe.training.lightning_splits import splits_of_datamodule, with_tests
from layerprobe.types import CheckpointInfo


def made(n: int, seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=random)
    return x, (x[:, 0] > 0).long()


def loader(n: int, seed: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*made(n, seed)), batch_size=16)


class Data(pl.LightningDataModule):
    def __init__(self, test: Any) -> None:
        super().__init__()
        self.test = test

    def train_dataloader(self) -> Any:
        return loader(48, 0)

    def val_dataloader(self) -> Any:
        return loader(20, 1)

    def test_dataloader(self) -> Any:
        return self.test


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", torch.nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(directory: Path, **options: Any) -> tuple[ProbeCallback, Net]:
    protocol = ProbeProtocol(l2=(1e-2,))
    probe = ProbeCallback(protocol, directory=directory, before_training=False, progress=False, **options)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[probe],
    )  # fmt: skip
    net = Net()
    trainer.fit(net, datamodule=Data(loader(24, 2)))
    return probe, net


def test_the_callback_reads_further_test_sets_and_changes_nothing_else(tmp_path: Path) -> None:
    tests = {"far": Data(loader(30, 3)), "pair": made(12, 4)}
    with_them, net = trained(tmp_path / "with", tests=tests)
    without, other = trained(tmp_path / "without")
    pd.testing.assert_frame_equal(
        with_them.results().drop(columns="seconds"), without.results().drop(columns="seconds"), check_exact=True
    )
    assert torch.equal(net.layer.weight, other.layer.weight)
    sizes = with_them.store.metrics().query("metric == 'n_test'").groupby("test_set")["value"].max()
    assert sizes.to_dict() == {"far": 30, "pair": 12, "test": 24}
    assert without.store.metrics().empty
    right = with_them.store.answers().set_index(["layer", "test_set"])["correct"]
    assert [len(right["layer", name]) for name in ("test", "far", "pair")] == [24, 30, 12]
    with pytest.raises(ValueError, match="Two test sets are called 'test'"):
        ProbeCallback(tests={"test": made(9, 5)})


def test_several_loaders_of_a_data_module_may_be_test_sets() -> None:
    data = Data({"near": loader(5, 2), "far": loader(6, 3), "other": loader(7, 4)})
    chosen: dict[Any, dict[str, int]] = {
        ("near", "far"): {"near": 5, "far": 6},
        "other": {"test": 7},
    }
    for wanted, sizes in chosen.items():
        found = splits_of_datamodule(data, {"test": list(wanted) if isinstance(wanted, tuple) else wanted})
        assert {name: batches.length(found[name]) for name in batches.test_sets(found)} == sizes
    by_name = splits_of_datamodule(data, {"test": {"clean": "near", "shifted": "other"}})
    assert {name: batches.length(by_name[name]) for name in batches.test_sets(by_name)} == {"clean": 5, "shifted": 7}
    listed = splits_of_datamodule(Data([loader(5, 2), loader(6, 3)]), {"test": [1, 0]})
    assert {name: batches.length(listed[name]) for name in batches.test_sets(listed)} == {"1": 6, "0": 5}
    with pytest.raises(ValueError, match=r"no test loader 'mid'. Choose one of: near, far, other"):
        splits_of_datamodule(data, {"test": ["near", "mid"]})
    with pytest.raises(ValueError, match="called 'val', as a split is"):
        splits_of_datamodule(data, {"test": {"near": "near", "val": "far"}})


def test_a_configuration_says_what_a_test_set_is() -> None:
    node = {"_target_": "package.Data", "size": 3}
    assert without_tests(node) == (node, {})
    assert without_tests({**node, "tests": None}) == (node, {})
    assert without_tests({**node, "tests": {"far": node}}) == (node, {"far": node})
    for wrong in ("far", ["far"]):
        with pytest.raises(ValueError, match=r"data\.tests is .*Give each test set by its name"):
            without_tests({**node, "tests": wrong})
    with pytest.raises(ValueError, match=r"Nothing says what the test set data\.tests\.far is: \{'size': 3\}"):
        without_tests({**node, "tests": {"far": {"size": 3}}})


def pair(n: int) -> tuple[Tensor, Tensor]:
    """What a function of a test set may return."""
    return torch.rand(n, 2), torch.arange(n) % 2


def test_a_function_may_return_the_pair_of_a_test_set() -> None:
    """As a pair, and not as a list of the configuration, which nothing reads."""
    words = [
        f"+data.tests.far._target_={__name__}.pair",
        "+data.tests.far.n=7",
        "model=xor_mlp",
        "data=xor",
        "logger=none",
    ]
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        probing = compose("probe", [*words, "trainer.default_root_dir=.", "trainer.callbacks=[]"])
        training = compose("train", [*words, "callbacks=default", "run_dir=.", "trainer.default_root_dir=."])
    builder, info = Builder(probing), CheckpointInfo()
    checkpoint = builder.open((None, info))
    found = builder.build(checkpoint, builder.config(checkpoint)).data
    assert [len(part) for part in found["far"]] == [7, 7]
    trainer = hydra.utils.instantiate(training.trainer)
    callback = next(one for one in trainer.callbacks if isinstance(one, ProbeCallback))
    assert [len(part) for part in with_tests({}, callback._tests)["far"]] == [7, 7]
