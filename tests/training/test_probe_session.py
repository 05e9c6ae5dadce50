from __future__ import annotations

import logging
import signal
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from layerprobe.models.classifier import Classifier
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.results.checkpoint_ledger import Entry, OtherResultsError
from layerprobe.results.progress import ProgressFile, read_progress
from layerprobe.training.callback import ProbeCallback
from layerprobe.training.lightning_splits import splits_of_datamodule
from layerprobe.training.probe_session import ProbeSession, announce
from layerprobe.training.sharing import Subject
from layerprobe.training.signals import StopSignals
from layerprobe.training.team import ProbingStopped
from layerprobe.types import CheckpointInfo, LayerResult


def made() -> tuple[nn.Module, dict[str, tuple[Tensor, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    data = {
        split: (torch.randn(n, 6, generator=generator), torch.arange(n) % 3)
        for split, n in (("train", 90), ("val", 30), ("test", 30))
    }
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), data


def test_says_where_features_go_and_how_long_it_takes(caplog: pytest.LogCaptureFixture) -> None:
    network, data = made()
    with caplog.at_level(logging.INFO, "layerprobe"):
        announce(Subject(network, data, ProbeProtocol()))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("Plan: 4 layers, 150 samples, one pass; features: 4 in memory; memory ")
    assert second.startswith("Plan: about ")
    caplog.clear()
    with caplog.at_level(logging.INFO, "layerprobe"):
        announce(Subject(network, data, ProbeProtocol()), processes=2)
    assert caplog.messages[1].endswith(" to fit by 2 processes")


def test_says_nothing_where_nothing_is_left(caplog: pytest.LogCaptureFixture) -> None:
    network, data = made()
    with caplog.at_level(logging.INFO, "layerprobe"):
        announce(Subject(network, data, ProbeProtocol(), done=("input", "0", "1", "2")))
    assert not caplog.records


def test_data_that_can_only_be_iterated_are_not_read(caplog: pytest.LogCaptureFixture) -> None:
    network, data = made()
    used: list[Tensor] = []

    def once():  # type: ignore[no-untyped-def]
        for x, y in zip(data["train"][0].split(10), data["train"][1].split(10), strict=True):
            used.append(x)
            yield x, y

    with caplog.at_level(logging.INFO, "layerprobe"):
        announce(Subject(network, data | {"train": once()}, ProbeProtocol()))
    assert not used
    assert not caplog.records


def test_a_plan_that_cannot_be_made_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    network, data = made()
    with caplog.at_level(logging.INFO, "layerprobe"):
        announce(Subject(network, data, ProbeProtocol(layers="no_such_layer")))
    (record,) = caplog.records
    assert record.getMessage().startswith("There is no plan: ")


def test_a_fault_of_planning_shows_and_stops_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*args: object, **options: object) -> None:
        raise KeyError("a layer that is not there")

    monkeypatch.setattr("layerprobe.training.probe_session.make_plan", faulty)
    network, data = made()
    with caplog.at_level(logging.INFO, "layerprobe"):
        announce(Subject(network, data, ProbeProtocol()))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError
    assert "There is no plan" not in record.getMessage()


def test_the_callback_says_it_once(caplog: pytest.LogCaptureFixture, tmp_path) -> None:  # type: ignore[no-untyped-def]
    network, data = made()
    loaders = {split: DataLoader(TensorDataset(*pair), 30) for split, pair in data.items()}
    trainer = pl.Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        callbacks=[ProbeCallback(ProbeProtocol(l2=(1e-2, 1.0)), directory=tmp_path, data=loaders)],
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "layerprobe"):
        trainer.fit(
            Classifier(network, lambda named: torch.optim.Adam(p for _, p in named), None, nn.CrossEntropyLoss()),
            loaders["train"],
            loaders["val"],
        )
    assert sum("Plan: about" in record.getMessage() for record in caplog.records) == 1


def test_what_fails_before_the_first_layer_is_not_called_probed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, data = made()
    session, info = ProbeSession(tmp_path, progress=False), CheckpointInfo("final", 7, 1)
    broken = {**data, "train": (data["train"][0], torch.zeros(90, dtype=torch.int64))}
    with caplog.at_level(logging.INFO, "layerprobe"):
        with pytest.raises(ValueError, match="at least two classes"):
            session.probe(network, broken, ProbeProtocol(l2=(1e-2,)), info, plan=False)
        assert not any(message.startswith("Probed") for message in caplog.messages)
        session.probe(network, data, ProbeProtocol(l2=(1e-2,)), info, plan=False)
    assert "Probed final at step 7: 4 layers" in caplog.messages


def test_a_data_module_is_set_up_once_for_each_stage_and_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    class Module(pl.LightningDataModule):
        def setup(self, stage: str) -> None:
            logging.getLogger("layerprobe").warning(stage)
            self.rows = TensorDataset(torch.zeros(4, 2), torch.zeros(4))

        def train_dataloader(self) -> DataLoader:
            return DataLoader(self.rows)

        val_dataloader = test_dataloader = train_dataloader

    module = Module()
    assert splits_of_datamodule(module).keys() == {"train", "val", "test"}
    assert caplog.messages == ["fit", "test"]
    assert not hasattr(module, "rows")


def test_a_loader_of_no_split_is_refused() -> None:
    module = pl.LightningDataModule.from_datasets(*[TensorDataset(torch.zeros(4, 2), torch.zeros(4))] * 3)
    with pytest.raises(ValueError, match=r"`loaders` names the split 'tset'. Did you mean test\?"):
        splits_of_datamodule(module, {"tset": 1})


def test_a_session_stops_before_a_layer_and_another_goes_on(tmp_path: Path) -> None:
    network, data = made()
    protocol, info = ProbeProtocol(l2=(1e-2,)), CheckpointInfo("final", 7, 1)
    entry = Entry("final.ckpt", "123", {"probe": {"l2": [1e-2]}, "seed": 0})
    signals = StopSignals()
    session = ProbeSession(tmp_path, signals=signals, where=ProgressFile(tmp_path), progress=False)
    add = session.store.add

    def add_and_signal(result: LayerResult) -> None:
        add(result)
        if result.record.depth == 1:
            signal.raise_signal(signal.SIGUSR2)

    session.store.add = add_and_signal  # type: ignore[method-assign]
    with signals.listening(), pytest.raises(ProbingStopped, match=r"^layer 3 of 4 of final$"):
        session.probe(network, data, protocol, info, entry=entry, plan=False, at={"step": 7})
    assert session.store.done("final") == {"input", "0"}
    assert {"step": 7, "checkpoint": "final", "layer": "layer 3 of 4"}.items() <= read_progress(tmp_path).items()
    assert not session.is_complete("final", entry)

    again = ProbeSession(tmp_path, progress=False)
    begun = again.store.results()
    assert not again.is_complete("final", entry)
    again.probe(network, data, protocol, info, entry=entry, plan=False)
    pd.testing.assert_frame_equal(again.store.results().head(2), begun)  # the seconds too: not fitted again
    assert again.is_complete("final", entry)
    with pytest.raises(OtherResultsError, match="seed=0, now 1"):
        again.is_complete("final", replace(entry, config={"probe": {"l2": [1e-2]}, "seed": 1}))
    assert not again.is_complete("final", entry, force=True)
    assert not again.store.done("final")
