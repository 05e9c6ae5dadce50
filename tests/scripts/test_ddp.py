"""One run in two processes: one directory, one log, and the results of one process."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from helpers.command import run

pytestmark = pytest.mark.slow


def test_two_processes_probe_as_one(tmp_path: Path) -> None:
    """The two halves of each batch of four are the batch of the run in one process."""
    common = [
        "experiment=xor_mlp",
        "data.repeats=200",
        "seed=3",
        "callbacks=default",
        "logger=csv",
        "report.figures=false",
    ]
    run("train.py", *common, "hydra.run.dir=one", cwd=tmp_path)
    two = ["trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=2", "hydra.run.dir=two"]
    run("train.py", *common, *two, cwd=tmp_path)
    one, two_ = (pd.read_parquet(tmp_path / name / "probes" / "results.parquet") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two_.drop(columns="seconds"), rtol=1e-3, atol=1e-4)
    names = sorted(file.name for file in (tmp_path / "two").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "one").iterdir())
    metrics = pd.read_csv(tmp_path / "two" / "csv" / "metrics.csv")
    assert metrics["step"].is_monotonic_increasing
    assert (tmp_path / "two" / "train.log").read_text().count("Probed final") == 1
