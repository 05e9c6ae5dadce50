from __future__ import annotations

import resource
from argparse import Namespace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch import nn

from layerprobe.training.checkpoints import CheckpointError, check_goes_on, freeze, load
from layerprobe.types import CheckpointInfo


class Evil:
    """What an attacker's file would run when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


def test_what_freeze_writes_is_read_back(tmp_path: Path) -> None:
    network, info = nn.Linear(3, 2), CheckpointInfo("epoch_3", 30, 3)
    freeze(network.state_dict(), tmp_path / "x.ckpt", info, {"seed": 1})
    found = load(tmp_path / "x.ckpt")
    assert (found.info, found.config) == (info, {"seed": 1})
    assert torch.equal(found.state_dict["weight"], network.weight)


def test_a_training_goes_on_only_from_a_file_with_its_state(tmp_path: Path) -> None:
    freeze(nn.Linear(3, 2).state_dict(), tmp_path / "frozen.ckpt", CheckpointInfo("final"), {})
    with pytest.raises(CheckpointError, match=r"without the state of its training \(loops and optimizer_states\)"):
        check_goes_on(tmp_path / "frozen.ckpt")
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        check_goes_on(tmp_path / "missing.ckpt")
    torch.save({"state_dict": {}, "loops": {}, "optimizer_states": []}, tmp_path / "whole.ckpt")
    check_goes_on(tmp_path / "whole.ckpt")


@pytest.mark.parametrize("layout", ["plain", "model", "state_dict", "safetensors", "legacy"])
def test_the_files_of_others(tmp_path: Path, layout: str) -> None:
    weights = {name: value.clone() for name, value in nn.Linear(3, 2).state_dict().items()}
    file = tmp_path / ("net-step=1200." + ("safetensors" if layout == "safetensors" else "pt"))
    if layout == "safetensors":
        save_file(weights, file)
    elif layout == "legacy":
        torch.save(weights, file, _use_new_zipfile_serialization=False)
    else:
        torch.save(weights if layout == "plain" else {layout: weights, "epoch": 2}, file)
    found = load(file)
    assert found.info == CheckpointInfo("net-step=1200", 1200, 2 if layout in ("model", "state_dict") else 0)
    assert found.state_dict.keys() == weights.keys()


def test_hyper_parameters_as_lightning_keeps_them(tmp_path: Path) -> None:
    class Net(pl.LightningModule):
        def __init__(self, width: int, names: tuple[str, ...] = ()) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.fc = nn.Linear(width, 1)

    class FromNamespace(pl.LightningModule):
        def __init__(self, args: Namespace) -> None:
            super().__init__()
            self.save_hyperparameters(args)
            self.fc = nn.Linear(args.width, 1)

    for module in (Net(4), FromNamespace(Namespace(width=4))):
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False)
        trainer.strategy.connect(module)
        trainer.save_checkpoint(tmp_path / "x.ckpt")
        again = type(module)(**load(tmp_path / "x.ckpt").hyper_parameters)
        assert again.fc.in_features == 4


def test_a_file_with_code_is_refused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"w": torch.ones(1)}, "extra": Evil()}, "evil.pt")
    torch.save(nn.Linear(3, 2), "module.pt")
    with pytest.raises(CheckpointError, match=r"evil.pt was refused: it holds \S+.*trust_checkpoint=true"):
        load(Path("evil.pt"))
    with pytest.raises(CheckpointError, match=r"it holds torch.nn.modules.linear.Linear"):
        load(Path("module.pt"))
    assert not Path("ran").exists()
    assert load(Path("module.pt"), trust=True).state_dict.keys() == {"weight", "bias"}
    load(Path("evil.pt"), trust=True)
    assert Path("ran").exists(), "the negative control: trust runs the file's code"


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_file_that_is_cut_short(tmp_path: Path, legacy: bool, share: float) -> None:
    file = tmp_path / "x.pt"
    torch.save(nn.Linear(30, 20).state_dict(), file, _use_new_zipfile_serialization=not legacy)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint; is it cut short"):
        load(file)


@pytest.mark.parametrize(
    ("content", "found"),
    [({"optimizer": {}, "lr": 1.0}, "the keys optimizer, lr"), ({}, "the keys nothing"), (torch.ones(2), "a Tensor")],
)
def test_what_is_no_checkpoint(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=f"expected a `state_dict`, found {found}"):
        load(tmp_path / "x.pt")
    (tmp_path / "x.txt").write_text("hello there")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path / "x.txt")
    with pytest.raises(FileNotFoundError, match="No checkpoint"):
        load(tmp_path / "y.pt")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*final\.ckpt'"):
            freeze(nn.Linear(90, 90).state_dict(), tmp_path / "final.ckpt", CheckpointInfo("final", 1, 1), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_an_error_without_a_number_keeps_its_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no room for it")

    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(OSError, match=r"final\.ckpt: no room for it$"):
        freeze(nn.Linear(2, 2).state_dict(), tmp_path / "final.ckpt", CheckpointInfo("final", 1, 1), {})
