"""A run that is stopped or killed while it probes goes on without probing anything twice."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from layerprobe.files.errors import DamagedFileError
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.results.store import ProbeStore
from layerprobe.training.callback import ProbeCallback
from layerprobe.training.checkpoints import damage, load
from layerprobe.training.resume import Guard
from layerprobe.training.signals import Stopped


class Learner(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


class Data(pl.LightningDataModule):
    def _loader(self, seed: int) -> DataLoader:  # type: ignore[type-arg]
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(40) % 2
        return DataLoader(TensorDataset(torch.randn(40, 4, generator=generator) + y[:, None], y), batch_size=8)

    def train_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        return self._loader(0)

    def val_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        return self._loader(1)

    def test_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        return self._loader(2)


class Killed(BaseException):
    pass


def run(directory: Path, when: str, disturb: Callable[[int], None]) -> list[tuple[str, str]]:
    """Train and probe; `disturb` is called with the number of each result as it is kept."""
    pl.seed_everything(5, workers=True, verbose=False)
    probed: list[tuple[str, str]] = []
    protocol = ProbeProtocol(solvers=(Ridge(),), l2=(1e-2,))
    probe = ProbeCallback(
        protocol,
        directory=directory,
        every_n_epochs=1,
        steps=(3,),
        when=when,
        config={"seed": 5},  # type: ignore[arg-type]
    )
    guard = Guard(directory / "last.ckpt")
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[probe, guard], num_sanity_val_steps=0,
    )  # fmt: skip
    add = ProbeStore.add

    def noting(self: ProbeStore, result: Any) -> None:
        add(self, result)
        probed.append((result.record.checkpoint, result.record.layer))
        disturb(len(probed))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProbeStore, "add", noting)
        try:
            trainer.fit(Learner(), datamodule=Data(), ckpt_path=guard.path if guard.path.exists() else None)
            trainer.test(AndTest(), datamodule=Data(), verbose=False)
            (directory / "ended").touch()
        except (Stopped, Killed):
            pass
    return probed


class AndTest(Learner):
    """A last stage, in which a signal that came before is acted upon."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


def signalled(at: int) -> Callable[[int], None]:
    return lambda count: os.kill(os.getpid(), signal.SIGTERM) if count == at else None


def killed(at: int) -> Callable[[int], None]:
    def disturb(count: int) -> None:
        if count == at:
            raise Killed

    return disturb


@pytest.mark.parametrize(
    ("how", "when"),
    [
        (signalled, "now"),
        (killed, "end"),
        pytest.param(signalled, "end", marks=pytest.mark.slow),
        pytest.param(killed, "now", marks=pytest.mark.slow),
    ],
)
def test_stopped_after_any_layer(tmp_path: Path, when: str, how: Callable[[int], Callable[[int], None]]) -> None:
    expected = run(tmp_path / "whole", when, lambda count: None)
    reference = ProbeStore(tmp_path / "whole" / "probes").results().drop(columns="seconds")
    assert list(dict.fromkeys(name for name, _ in expected)) == ["initial", "step_3", "epoch_1", "final"]
    for at in range(1, len(expected) + 1, 5):
        directory = tmp_path / f"{at}"
        probed = run(directory, when, how(at))
        assert len(probed) == at, "the run did not stop before the next layer"
        probed += run(directory, when, lambda count: None)
        assert (directory / "ended").exists()
        assert sorted(probed) == sorted(expected), "a layer was probed twice, or not at all"
        found = ProbeStore(directory / "probes").results().drop(columns="seconds")
        pd.testing.assert_frame_equal(found, reference)


def test_another_network_is_not_taken_for_the_one_that_was_probed(tmp_path: Path) -> None:
    expected = run(tmp_path, "now", killed(2))
    checkpoint = tmp_path / "checkpoints" / "initial.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["net.0.bias"][0] += 1e-6
    torch.save(content, checkpoint)
    assert run(tmp_path, "now", lambda count: None)[:2] == expected


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended, `whole`, and one that was killed after two layers, `again`."""
    folder = tmp_path_factory.mktemp("stopped")
    run(folder / "whole", "now", lambda count: None)
    run(folder / "again", "now", killed(2))
    return folder


@pytest.mark.parametrize("content", [b"", b"PK cut short", b"\xff" * 999])
def test_a_damaged_checkpoint_is_made_again_where_its_network_is_there(
    stopped: Path, tmp_path: Path, content: bytes
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / "again" / "checkpoints" / "initial.ckpt"
    assert damage(damaged) == ""
    damaged.write_bytes(content)
    assert damage(damaged)
    run(tmp_path / "again", "now", lambda count: None)
    assert (tmp_path / "again" / "ended").exists()
    found, wanted = (load(tmp_path / name / "checkpoints" / "initial.ckpt") for name in ("again", "whole"))
    assert all(torch.equal(value, wanted.state_dict[name]) for name, value in found.state_dict.items())
    results = [ProbeStore(tmp_path / name / "probes").results().drop(columns="seconds") for name in ("again", "whole")]
    pd.testing.assert_frame_equal(*results)


def test_a_damaged_checkpoint_that_only_training_makes_again_is_named(tmp_path: Path, caplog) -> None:
    run(tmp_path, "end", signalled(6))
    for name in ("initial", "step_3"):
        (tmp_path / "checkpoints" / f"{name}.ckpt").write_bytes(b"")
    with pytest.raises(DamagedFileError, match=r"step_3\.ckpt is damaged .*mv -- .*last\.ckpt.*results .* are kept"):
        run(tmp_path, "end", lambda count: None)
    assert "initial.ckpt is damaged (it is empty). Its results are intact" in caplog.text
