"""The callback on a training run that others wrote: keyword inputs, several test loaders, mixed precision."""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import hydra
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from helpers.discovered import discover
from helpers.foreign import ForeignNet, Records, RecordsDataModule
from helpers.small_module import Net
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.training.callback import ProbeCallback
from layerprobe.training.lightning_splits import splits_of_datamodule

PROTOCOL = {
    "_target_": "layerprobe.ProbeProtocol",
    "_convert_": "all",
    "l2": [1e-2],
    "inputs": {"_target_": "layerprobe.Items", "paths": {"pixels": "pixels"}},
    "targets": {"_target_": "layerprobe.Item", "path": "label"},
}


def callback(directory: Path, **options: Any) -> ProbeCallback:
    node = {"_target_": "layerprobe.ProbeCallback", "directory": str(directory), "protocol": PROTOCOL, **options}
    return hydra.utils.instantiate(node)


def train(precision: str, *callbacks: ProbeCallback) -> ForeignNet:
    pl.seed_everything(0, verbose=False)
    module = ForeignNet(16)
    trainer = pl.Trainer(
        max_epochs=1, precision=precision, accelerator="gpu" if precision == "16-mixed" else "cpu", devices=1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(module, datamodule=RecordsDataModule())
    return module


def head_loss(head: dict[str, Tensor], features: Tensor, targets: Tensor) -> float:
    scores = (features.float() - head["mean"]) / head["scale"] @ head["weight"].T + head["bias"]
    return float(F.cross_entropy(scores, targets))


PRECISIONS = [
    ("bf16-mixed", torch.bfloat16),
    pytest.param(
        "16-mixed", torch.float16,
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("precision", "dtype"), PRECISIONS)
def test_the_network_is_called_in_the_trainer_s_precision(tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    probe = callback(tmp_path, loaders={"test": 1}, before_training=False)
    module = train(precision, probe).eval()
    record = probe.results().set_index("layer").loc["head"]
    assert record["n_test"] == 500
    assert record["status"] == "converged"
    head = {name: torch.from_numpy(values) for name, values in probe.store.head("final", "head").items()}

    records = Records(slice(1200, 1700))
    device = module.device.type
    with torch.no_grad(), torch.autocast(device, dtype):
        mixed = torch.cat([module(pixels=part.to(device))["logits"].cpu() for part in records.images.split(64)])
    assert mixed.dtype == dtype
    with torch.no_grad():
        whole = torch.cat([module(pixels=part.to(device))["logits"].cpu() for part in records.images.split(64)])
    in_its_precision, in_single = (head_loss(head, x, records.targets) for x in (mixed, whole))
    assert record["test_loss"] == pytest.approx(in_its_precision, abs=1e-6)
    assert abs(in_single - in_its_precision) > 1e-5, "the negative control: single precision gives another figure"


@pytest.mark.parametrize(("precision", "dtype"), PRECISIONS)
def test_training_in_mixed_precision_is_bit_identical(tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    alone = train(precision).state_dict()
    probed = train(precision, callback(tmp_path, every_n_steps=3, loaders={"test": 1})).state_dict()
    assert all(torch.equal(value, probed[name]) for name, value in alone.items())
    assert len(list((tmp_path / "checkpoints").glob("*.ckpt"))) > 3


def test_of_several_loaders_the_first_is_taken_with_a_word() -> None:
    with pytest.warns(UserWarning, match=r"2 test loaders \(0, 1\); 0 is probed.*loaders.test=NAME"):
        data: Any = splits_of_datamodule(RecordsDataModule())
    assert len(data["test"].dataset) == 300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = splits_of_datamodule(RecordsDataModule(), {"test": 1})
    assert len(data["test"].dataset) == 500
    with pytest.raises(ValueError, match=r"no test loader 2\. Choose one of: 0, 1"):
        splits_of_datamodule(RecordsDataModule(), {"test": 2})


def test_a_mapping_of_loaders_is_chosen_from_by_key() -> None:
    class Named(RecordsDataModule):
        def test_dataloader(self) -> Any:
            first, second = super().test_dataloader()
            return {"seen": first, "unseen": second}

    data: Any = splits_of_datamodule(Named(), {"test": "unseen"})
    assert len(data["test"].dataset) == 500


def test_layers_of_a_network_with_keyword_inputs() -> None:
    layers = discover(ForeignNet(16), {"pixels": Records(slice(0, 4)).images}, granularity="modules")
    assert [layer.name for layer in layers] == ["input", "encoder.0", "encoder.1", "encoder.2", "relu", "head"]


class OwnLoader(ForeignNet):
    """A module with a test loader of its own."""

    def test_dataloader(self) -> Any:
        return RecordsDataModule().test_dataloader()[0]


def test_loaders_are_found_without_a_data_module(tmp_path: Path) -> None:
    data = RecordsDataModule()

    def fit(module: ForeignNet, probe: ProbeCallback) -> None:
        trainer = pl.Trainer(
            max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
            enable_model_summary=False, limit_train_batches=2, callbacks=[probe],
        )  # fmt: skip
        trainer.fit(module, data.train_dataloader(), data.val_dataloader())

    probe = callback(tmp_path / "own")
    fit(OwnLoader(8), probe)
    assert set(probe.results()["n_test"]) == {300}
    with pytest.raises(ValueError, match=r"found train, val\. Give a 'test' DataLoader"):
        fit(ForeignNet(8), callback(tmp_path / "none"))


class LazyNet(Net):
    """Its first training step makes its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(2))


def small_fit(module: Net, *callbacks: ProbeCallback, epochs: int = 2) -> Net:
    pl.seed_everything(0, verbose=False)
    x = torch.randn(90, 4)
    pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    ).fit(module, DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=30, shuffle=True))  # fmt: skip
    return module


def small_callback(directory: Path, layers: str = "*", **options: Any) -> ProbeCallback:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(2))
    data = dict.fromkeys(("train", "val", "test"), (x, (x[:, 0] > 0).long()))
    return ProbeCallback(ProbeProtocol(layers, l2=(1e-2,)), directory=directory, data=data, progress=False, **options)


def test_a_network_that_its_first_step_initialises_is_probed_from_there_on(tmp_path: Path) -> None:
    alone = small_fit(LazyNet()).state_dict()
    probe = small_callback(tmp_path / "later", before_training=False, every_n_epochs=1)
    probed = small_fit(LazyNet(), probe).state_dict()
    assert all(torch.equal(value, probed[name]) for name, value in alone.items())
    assert set(probe.results()["checkpoint"]) == {"epoch_1", "final"}
    with pytest.raises(ValueError, match=r"not initialised yet.*before_training=false"):
        small_fit(LazyNet(), small_callback(tmp_path / "before"))


def test_training_without_a_step_says_that_nothing_was_probed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small_fit(Net(), small_callback(tmp_path / "none"), epochs=0)
    assert "Nothing was probed" in caplog.text
    assert "max_epochs=0" in caplog.text
    caplog.clear()
    small_fit(Net(), small_callback(tmp_path / "one"), epochs=1)
    assert "Nothing was probed" not in caplog.text, "the control"
    small_fit(Net(), small_callback(tmp_path / "no", before_training=False, at_end=False), epochs=1)
    assert "Nothing was probed: training came to no moment that its schedule names" in caplog.text


@pytest.mark.parametrize("options", [{"when": "end"}, {"before_training": False}])
def test_a_pattern_that_matches_nothing_is_told_before_training(tmp_path: Path, options: dict[str, Any]) -> None:
    module = Net()
    before = deepcopy(module.state_dict())
    with pytest.raises(ValueError, match="no layer matches the pattern 'nolayer'"):
        small_fit(module, small_callback(tmp_path / "wrong", layers="nolayer", **options))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items()), "nothing was trained"
    alone, probed = small_fit(Net()), small_fit(Net(), small_callback(tmp_path / "right", layers="[12]", **options))
    assert all(torch.equal(value, probed.state_dict()[name]) for name, value in alone.state_dict().items())
