"""Training with a server of Weights & Biases on this machine that works, is away, dies, or refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import wandb_log
from wandb_server import WandbServer, serving

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["experiment=xor_mlp", "data.repeats=30", "callbacks=probe", "probe.l2=[1e-3]"]

pytestmark = pytest.mark.slow


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "train.py"), *QUICK, *overrides]


def environment(cwd: Path, server: WandbServer | None = None, **others: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return clean | {"HOME": str(cwd)} | (server.environment if server else {}) | others


def train(cwd: Path, server: WandbServer | None, *overrides: str, **others: str) -> subprocess.CompletedProcess[str]:
    env = environment(cwd, server, **others)
    return subprocess.run(command(*overrides), cwd=cwd, env=env, capture_output=True, text=True, timeout=400)


def agree(run, probes: Path) -> None:
    """The server has each checkpoint's curve as the Parquet has it."""
    results = pd.read_parquet(probes / "results.parquet")
    for name, rows in results.groupby("checkpoint"):
        expected = list(zip(rows["depth"], rows["test_error"], strict=True))
        assert run.rows("probe/depth", f"probe/test_error/{name}") == expected


def test_a_run_arrives_whole(tmp_path: Path) -> None:
    with serving() as server:
        result = train(tmp_path, server, "seed=3", "model.width=3", "hydra.run.dir=run")
        assert result.returncode == 0, result.stderr
        (run,) = server.stored.runs.values()
        artifacts = list(server.stored.artifacts.values())
    assert run.exit_code == 0
    agree(run, tmp_path / "run" / "probes")
    assert run.about["displayName"].startswith("xor_mlp ")
    assert run.about["displayName"].endswith("seed=3 width=3")
    assert run.about["groupName"].startswith("xor_mlp")
    assert "seed" not in run.about["groupName"]
    assert run.about["jobType"] == "train"
    assert "model.width=3" in run.about["tags"]
    assert run.config["seed"] == 3
    assert all(artifact["state"] == "COMMITTED" for artifact in artifacts)
    (probes,) = [artifact for artifact in artifacts if artifact["artifactTypeName"] == "probes"]
    assert {"results.parquet", "path.parquet", "correct.parquet"} <= set(probes["files"])
    assert len([name for name in probes["files"] if name.startswith("heads/")]) == 8


@pytest.mark.parametrize("fault", ["down", 401])
def test_a_server_that_is_away_or_refuses_leaves_an_offline_run(tmp_path: Path, fault: int | str) -> None:
    begun = time.monotonic()
    if fault == "down":
        with serving() as server:
            pass
        result = train(tmp_path, server, "hydra.run.dir=run", "logger.wandb.settings.init_timeout=8")
    else:
        with serving(lambda kind, n: fault) as server:
            result = train(tmp_path, server, "hydra.run.dir=run", "logger.wandb.settings.init_timeout=8")
    assert result.returncode == 0, result.stderr
    assert "it is logged offline instead" in result.stdout + result.stderr
    assert time.monotonic() - begun < 200
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"
    (log,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    logged = wandb_log.read_finished(log)
    assert logged.exit_code == 0
    results = pd.read_parquet(tmp_path / "run" / "probes" / "results.parquet")
    final = results[results["checkpoint"] == "final"]
    expected = list(zip(final["depth"], final["test_error"], strict=True))
    assert logged.rows("probe/depth", "probe/test_error/final") == expected
    assert not [record for record in logged.metrics if record == "probe/*"]


def test_a_server_that_stumbles_loses_nothing(tmp_path: Path) -> None:
    with serving(lambda kind, n: 500 if kind in ("stream", "upload") and n <= 2 else None) as server:
        result = train(tmp_path, server, "hydra.run.dir=run")
        (run,) = server.stored.runs.values()
    assert result.returncode == 0, result.stderr
    assert run.exit_code == 0
    agree(run, tmp_path / "run" / "probes")


def test_a_killed_run_goes_on_under_its_id(tmp_path: Path) -> None:
    with serving() as server:
        env = environment(tmp_path, server)
        options = ("hydra.run.dir=run", "data.repeats=3000", "callbacks.probe.every_n_steps=1000")
        process = subprocess.Popen(
            command(*options), cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not list((tmp_path / "run").glob("checkpoints/step_1000.ckpt")) and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        result = train(tmp_path, server, *options)
        assert result.returncode == 0, result.stderr
        (run,) = server.stored.runs.values()
    assert run.id == (tmp_path / "run" / "run_id").read_text()
    assert run.exit_code == 0
    results = pd.read_parquet(tmp_path / "run" / "probes" / "results.parquet")
    final = results[results["checkpoint"] == "final"]
    expected = list(zip(final["depth"], final["test_error"], strict=True))
    assert run.rows("probe/depth", "probe/test_error/final")[-len(expected) :] == expected
