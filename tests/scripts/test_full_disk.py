"""What a user reads where the disk is full: here a file may have so many KiB, as on a disk that is full by then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from helpers import forked
from helpers.command import ROOT
from layerprobe.models.digits_convnet import DigitsConvNet

pytestmark = pytest.mark.slow


def run_within(kibibytes: int, script: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / script), *words, "logger=none", "hydra.run.dir=run"]
    environment = os.environ | {"HOME": str(cwd), "COLUMNS": "160"}
    return forked.run(command, cwd=cwd, env=environment, file_size=1024 * kibibytes)


@pytest.mark.parametrize("kibibytes", [20, 40])
def test_training_ends_with_one_message(tmp_path: Path, kibibytes: int) -> None:
    """The first checkpoint cannot be written; or the checkpoint can, and something larger later on cannot."""
    words = ("experiment=xor_mlp", "model.width=2048", "data.repeats=20")
    result = run_within(kibibytes, "train.py", *words, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert "Logging error" not in result.stderr
    assert result.stderr.count(f"Writing to {tmp_path / 'run'} failed: [Errno 27] ") == 1
    assert "ile too large" in result.stderr
    assert "Make room, then go on: uv run scripts/train.py" in result.stderr
    assert "Traceback" in (tmp_path / "run" / "train.log").read_text()


def test_probing_ends_with_one_message_and_goes_on(tmp_path: Path) -> None:
    torch.save(DigitsConvNet(10, 0.5).state_dict(), tmp_path / "x.pt")
    words = ("checkpoint=x.pt", "model=digits_convnet", "data=digits", "probe.l2=[1e-2]", "reducer=channel_mean")
    result = run_within(12, "probe.py", *words, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert "results cannot be written" in result.stderr
    assert "Traceback" in (tmp_path / "run" / "probe.log").read_text()
    result = run_within(10_000, "probe.py", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(pd.read_parquet(tmp_path / "run" / "probes" / "results.parquet")) == 10
