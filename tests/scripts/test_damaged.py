"""Damaged files in the directory of a run: the scripts mend them, or say in one message what is left and what to do."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from helpers import command

pytestmark = pytest.mark.slow

TRAIN = [
    "experiment=xor_mlp",
    "data.repeats=30",
    "probe.l2=[1e-3]",
    "logger=csv",
    "report.figures=false",
    "hydra.run.dir=run",
]
ONCE = ["trainer.max_epochs=1", "solver=ridge", "solver.ridge._target_=helpers.interrupted.StopsOnce"]
SAVED = ["callbacks.guard.every_n_seconds=0", "callbacks.probe.before_training=false", "callbacks.probe.steps=[5,20]"]
INTERRUPTED = [*TRAIN, *ONCE, *SAVED]


def train(cwd: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return command.run("train.py", *overrides, cwd=cwd, check=False, path=Path(__file__).parents[1])


def results(cwd: Path) -> pd.DataFrame:
    return pd.read_parquet(cwd / "run" / "probes" / "results.parquet").drop(columns="seconds")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A run that was stopped in its first probing, with a `last.ckpt`; and the results of one that was not."""
    whole, stopped = (tmp_path_factory.mktemp(name) for name in ("whole", "stopped"))
    (whole / "stopped").touch()
    done = train(whole, *INTERRUPTED)
    assert done.returncode == 0, done.stdout + done.stderr
    left = train(stopped, *INTERRUPTED)
    assert (stopped / "run" / "run.json").exists(), left.stdout + left.stderr
    assert json.loads((stopped / "run" / "run.json").read_text())["status"] == "interrupted"
    assert (stopped / "run" / "last.ckpt").exists()
    return stopped, results(whole)


@pytest.mark.parametrize("share", [0, 2])
def test_the_message_about_a_damaged_last_checkpoint_leads_on(interrupted, tmp_path: Path, share: int) -> None:
    stopped, expected = interrupted
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "run" / "last.ckpt"
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // share] if share else b"")
    refused = train(tmp_path, *INTERRUPTED)
    said = refused.stdout + refused.stderr
    assert refused.returncode == 1, said
    assert "Traceback" not in said
    assert re.search(r"last\.ckpt is damaged .*Intact: \d+ results of \d checkpoint", said)
    move, again = re.search(r"To begin again: (mv .*) && uv run scripts/train\.py (.*)", said).groups()
    subprocess.run(shlex.split(move), cwd=tmp_path, check=True)
    done = train(tmp_path, *shlex.split(again))
    assert done.returncode == 0, done.stdout + done.stderr
    pd.testing.assert_frame_equal(results(tmp_path), expected)


def test_results_of_another_schema_are_one_message(interrupted, tmp_path: Path) -> None:
    shutil.copytree(interrupted[0], tmp_path, dirs_exist_ok=True)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "run" / "probes" / "results.parquet")
    refused = train(tmp_path, *INTERRUPTED)
    said = refused.stdout + refused.stderr
    assert refused.returncode == 1, said
    assert "Traceback" not in said
    assert "was not written by layerprobe" in said
