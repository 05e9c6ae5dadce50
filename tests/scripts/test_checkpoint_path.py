"""A training from a checkpoint of another run, and a network that is only tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from helpers.command import call, run

SHORT = [
    "experiment=xor_mlp",
    "data.repeats=30",
    "trainer.max_epochs=2",
    "probe.l2=[1e-3]",
    "logger=none",
    "report.figures=false",
]


def metrics(folder: Path) -> dict[str, Any]:
    return {key: value for key, value in json.loads((folder / "run.json").read_text())["metrics"].items() if "/" in key}


@pytest.mark.slow
def test_a_kept_checkpoint_is_tested_probed_and_gone_on_from(tmp_path: Path) -> None:
    kept = ["callbacks=[probe,guard,model_checkpoint]", "callbacks.model_checkpoint.monitor=null"]
    run("train.py", *SHORT, *kept, "hydra.run.dir=a", cwd=tmp_path)
    assert {file.name for file in (tmp_path / "a" / "model_checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}

    tested = ["train=false", "ckpt_path=a/model_checkpoints/best.ckpt"]
    run("train.py", *SHORT, *tested, "hydra.run.dir=b", cwd=tmp_path)
    assert metrics(tmp_path / "b")["test/loss"] == pytest.approx(metrics(tmp_path / "a")["test/loss"])
    assert not (tmp_path / "b" / "probes").exists()

    code, said = call("train.py", *SHORT, "ckpt_path=a/checkpoints/final.ckpt", "hydra.run.dir=c", cwd=tmp_path)
    assert code == 1 and "without the state of its training" in said and "Traceback" not in said

    on = ["callbacks=[probe,guard]", "trainer.max_epochs=3", "test=false", "ckpt_path=a/model_checkpoints/last.ckpt"]
    run("train.py", *SHORT, *on, "hydra.run.dir=d", cwd=tmp_path)
    steps = [pd.read_parquet(tmp_path / name / "probes" / "results.parquet")["step"].max() for name in ("a", "d")]
    assert 2 * steps[1] == 3 * steps[0] > 0
    assert not [key for key in metrics(tmp_path / "d") if key.startswith("test/")]

    run("probe.py", "checkpoint=a/model_checkpoints", "probe.l2=[1e-3]", "logger=none",
        "hydra.run.dir=e", cwd=tmp_path)  # fmt: skip
    assert set(pd.read_parquet(tmp_path / "e" / "probes" / "results.parquet")["checkpoint"]) == {"best", "last"}
