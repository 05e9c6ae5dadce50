"""Training that goes on beyond its end, and a callback that is taken for another training, as a notebook does."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from helpers.ranks import together
from helpers.small_module import Net
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.results.reader import Run
from layerprobe.training.callback import ProbeCallback
from layerprobe.training.checkpoints import load

X = torch.randn(90, 4, generator=torch.Generator().manual_seed(1))
SPLIT = TensorDataset(X, (X[:, 0] > 0).long())


def probing(directory: Path, every_n_epochs: int | None = 1, when: Literal["now", "end"] = "now") -> ProbeCallback:
    data = {name: DataLoader(SPLIT, batch_size=30) for name in ("train", "val", "test")}
    protocol = ProbeProtocol(l2=(1e-2,), scores=True)
    return ProbeCallback(protocol, directory=directory, data=data, every_n_epochs=every_n_epochs, when=when)


def trainer(callback: ProbeCallback, epochs: int, *others: pl.Callback, processes: int = 1) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback, *others], devices=processes,
        strategy="ddp" if processes > 1 else "auto", use_distributed_sampler=processes == 1,
    )  # fmt: skip


def loader() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(SPLIT, batch_size=30)


def what_was_measured(directory: Path) -> pd.DataFrame:
    table = Run.read(directory).results
    return table.drop(columns=[name for name in table if name.endswith("seconds") or name == "peak_memory"])


@pytest.mark.parametrize("anew", [False, True])
def test_further_epochs_leave_what_one_training_leaves(tmp_path: Path, anew: bool) -> None:
    callback = probing(tmp_path / "once")
    trainer(callback, 2).fit(Net(), loader())

    callback, module = probing(tmp_path / "further"), Net()
    first = trainer(callback, 1)
    first.fit(module, loader())
    if anew:  # from a file, by another process
        first.save_checkpoint(tmp_path / "saved.ckpt")
        callback, module = probing(tmp_path / "further"), Net()
        trainer(callback, 2).fit(module, loader(), ckpt_path=tmp_path / "saved.ckpt", weights_only=False)
    else:
        first.fit_loop.max_epochs = 2
        first.fit(module, loader())

    pd.testing.assert_frame_equal(what_was_measured(tmp_path / "further"), what_was_measured(tmp_path / "once"))
    run, once = Run.read(tmp_path / "further"), Run.read(tmp_path / "once")
    for checkpoint in ("initial", "epoch_1", "final"):
        frozen = [load(run / "checkpoints" / f"{checkpoint}.ckpt") for run in (tmp_path / "once", tmp_path / "further")]
        assert frozen[0].info == frozen[1].info
        assert all(torch.equal(value, frozen[1].state_dict[name]) for name, value in frozen[0].state_dict.items())
        for layer in what_was_measured(tmp_path / "once")["layer"].unique():
            assert run.scores(checkpoint, layer).equals(once.scores(checkpoint, layer))
    assert run.path().equals(once.path())
    assert set(callback.results()["checkpoint"]) == {"initial", "epoch_1", "final"}


def test_the_former_end_stays_as_an_epoch_that_no_schedule_named(tmp_path: Path) -> None:
    callback, module = probing(tmp_path, every_n_epochs=None), Net()
    fitting = trainer(callback, 1)
    fitting.fit(module, loader())
    before = what_was_measured(tmp_path).set_index(["checkpoint", "layer"])
    fitting.fit_loop.max_epochs = 3
    fitting.fit(module, loader())
    after = what_was_measured(tmp_path).set_index(["checkpoint", "layer"])
    assert list(after.index.unique("checkpoint")) == ["initial", "epoch_1", "final"]
    assert after.loc["final", "step"].eq(9).all()
    pd.testing.assert_frame_equal(after.loc["epoch_1"], before.loc["final"])


class BreaksOff(pl.Callback):
    """Ends the process of a training, as far as the training can tell."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        raise KeyError("broken off")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["now", "end"])
def test_going_on_from_the_same_file_again_and_again(tmp_path: Path, when: Literal["now", "end"]) -> None:
    trainer(probing(tmp_path / "once", when=when), 3).fit(Net(), loader())
    first = trainer(probing(tmp_path / "again", when=when), 1)
    first.fit(Net(), loader())
    first.save_checkpoint(tmp_path / "saved.ckpt")

    def go_on(epochs: int, *others: pl.Callback) -> None:
        going_on = trainer(probing(tmp_path / "again", when=when), epochs, *others)
        going_on.fit(Net(), loader(), ckpt_path=tmp_path / "saved.ckpt", weights_only=False)

    with pytest.raises(KeyError, match="broken off"):
        go_on(2, BreaksOff())
    go_on(2)
    go_on(3)
    pd.testing.assert_frame_equal(what_was_measured(tmp_path / "again"), what_was_measured(tmp_path / "once"))


def test_going_on_elsewhere_takes_nothing_for_probed_that_is_not_there(tmp_path: Path) -> None:
    first = trainer(probing(tmp_path / "first"), 1)
    first.fit(Net(), loader())
    first.save_checkpoint(tmp_path / "saved.ckpt")
    callback = probing(tmp_path / "elsewhere")
    trainer(callback, 3).fit(Net(), loader(), ckpt_path=tmp_path / "saved.ckpt", weights_only=False)
    kept = {file.stem for file in (tmp_path / "elsewhere" / "checkpoints").iterdir()}
    assert kept == set(callback.results()["checkpoint"]) == {"epoch_2", "final"}


@pytest.mark.slow
@pytest.mark.parametrize("when", ["now", "end"])
def test_a_callback_that_is_taken_again_probes_the_other_training(tmp_path: Path, when: Literal["now", "end"]) -> None:
    callback = probing(tmp_path / "one", when=when)
    with pytest.raises(KeyError, match="broken off"):
        trainer(callback, 1, BreaksOff()).fit(Net(seed=1), loader())
    trainer(callback, 1).fit(Net(), loader())
    with pytest.raises(ValueError, match="directory of its own"):
        trainer(callback, 1).fit(Net(seed=1), loader())
    callback.directory = tmp_path / "other"
    trainer(callback, 1).fit(Net(), loader())
    pd.testing.assert_frame_equal(what_was_measured(tmp_path / "other"), what_was_measured(tmp_path / "one"))
    trainer(probing(tmp_path / "other", when=when), 1).fit(Net(seed=1), loader())  # another process, the same folder
    trainer(probing(tmp_path / "clean", when=when), 1).fit(Net(seed=1), loader())
    pd.testing.assert_frame_equal(what_was_measured(tmp_path / "other"), what_was_measured(tmp_path / "clean"))


def test_two_processes_go_on_where_only_the_first_is_told_the_run_s_id(tmp_path: Path) -> None:
    trainer(probing(tmp_path / "one"), 2).fit(Net(), loader())

    def work(rank: int) -> list[str]:
        for epochs in (1, 2):
            callback = probing(tmp_path / "two")
            callback.config = {"run_id": "abc" if rank == 0 else None}
            training = trainer(callback, epochs, processes=2)
            saved = tmp_path / "saved.ckpt" if epochs == 2 else None
            training.fit(Net(), loader(), ckpt_path=saved, weights_only=False if saved else None)
            training.save_checkpoint(tmp_path / "saved.ckpt")
        return [info["name"] for info in callback.state_dict()["frozen"]]

    assert together(2, tmp_path / "ranks", work, timeout=120) == [["initial", "epoch_1", "final"]] * 2
    pd.testing.assert_frame_equal(what_was_measured(tmp_path / "two"), what_was_measured(tmp_path / "one"))


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_the_last_epoch_of_a_file_from_before_the_end_is_probed_under_its_number(tmp_path: Path) -> None:
    def fit(directory: Path, epochs: int, file: Path | None = None) -> ProbeCallback:
        callback = probing(directory)
        saved = ModelCheckpoint(directory / "saved", filename="{epoch}", save_top_k=-1)
        pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[callback, saved],
        ).fit(Net(), loader(), ckpt_path=file, weights_only=False)  # fmt: skip
        return callback

    fit(tmp_path / "once", 3)
    key = fit(tmp_path / "resumed", 2).state_key
    path = tmp_path / "resumed" / "saved" / "epoch=1.ckpt"
    known = torch.load(path, weights_only=False)["callbacks"][key]["frozen"]
    assert [info["name"] for info in known] == ["initial", "epoch_1"], "positive control: saved before the end"
    fit(tmp_path / "resumed", 3, path)
    pd.testing.assert_frame_equal(what_was_measured(tmp_path / "resumed"), what_was_measured(tmp_path / "once"))
