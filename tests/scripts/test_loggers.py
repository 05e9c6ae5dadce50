"""The same results without Weights & Biases."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pandas as pd
import pytest

from helpers import forked
from layerprobe.results.arrow_tables import to_frame
from layerprobe.training.probe_log import ProbeLog

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def train(cwd: Path, logger: str) -> pd.DataFrame:
    options = ["experiment=xor_mlp", "data.repeats=20", "probe.l2=[1e-3]", "hydra.run.dir=run", f"logger={logger}"]
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *options]
    result = forked.run(command, cwd=cwd)
    assert result.returncode == 0, result.stderr
    results = pd.read_parquet(cwd / "run" / "probes" / "results.parquet")
    return results.assign(key="probe/" + results["layer"] + "/test_error")[["key", "step", "test_error"]]


def test_tensorboard_has_each_layers_error_over_the_steps(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    expected = train(tmp_path, "tensorboard")
    log = accumulators.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for row in expected.itertuples():
        found = {event.step: event.value for event in log.Scalars(row.key)}
        assert found[row.step] == pytest.approx(row.test_error)


def test_mlflow_has_each_layers_error_over_the_steps(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    expected = train(tmp_path, "mlflow")
    with sqlite3.connect(tmp_path / "mlflow.db") as base:
        rows = base.execute("select key, step, value from metrics").fetchall()
    assert set(expected.itertuples(index=False, name=None)) <= set(rows)


def test_a_layer_that_is_called_twice_keeps_a_name_of_its_own_where_mlflow_takes_no_hash(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from pytorch_lightning.loggers import MLFlowLogger

    from helpers import made_results as made

    logger = MLFlowLogger("made", tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    layers = ("fc", "fc#1", "fc1")
    rows = [made.record(depth=depth, layer=layer) for depth, layer in enumerate(layers)]
    ProbeLog([logger]).checkpoint(to_frame(rows))
    with sqlite3.connect(tmp_path / "mlflow.db") as base:
        found = dict(base.execute("select key, value from metrics").fetchall())
    names = ("fc", "fc-1", "fc1")
    assert found == {f"probe/{name}/test_error": row.test_error for name, row in zip(names, rows, strict=True)}
