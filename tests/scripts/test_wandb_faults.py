"""Training with a server of Weights & Biases that is away, refuses, stumbles or dies, and a process that is stopped."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from helpers import wandb_log
from helpers.forked import Running
from helpers.online import agree, log_of, start, synced, train
from helpers.wandb_server import serving

pytestmark = pytest.mark.slow

SHORT = ("logger.wandb.settings.init_timeout=8", "logger.wandb.settings.finish_timeout=5")


def done(cwd: Path) -> bool:
    return json.loads((cwd / "run" / "run.json").read_text())["status"] == "done"


def wait_for(condition, process: Running, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it has not come so far"
        time.sleep(0.02)


@pytest.mark.parametrize("status", [None, 401, 403, 500])
def test_without_a_server_that_takes_the_run_it_is_logged_offline(tmp_path: Path, status: int | None) -> None:
    with serving(lambda kind, n: status) as server:
        if status is None:
            server.stop()
        result = train(tmp_path, server, *SHORT)
    assert result.returncode == 0, result.stderr
    read = result.stdout + result.stderr
    assert "it is logged offline instead. Later: wandb sync" in read
    assert done(tmp_path)
    # An attempt that a server turned down has left a folder of its own beside this one.
    logged = wandb_log.read_finished(log_of(tmp_path, "offline-run-*"))
    assert logged.exit_code == 0
    agree(logged, tmp_path / "run" / "probes")


@pytest.mark.parametrize("status", [429, 500])
def test_a_server_that_stumbles_loses_nothing(tmp_path: Path, status: int) -> None:
    with serving(lambda kind, n: status if kind in ("stream", "upload") and n <= 2 else None) as server:
        result = train(tmp_path, server)
        (stored,) = server.stored.runs.values()
    assert result.returncode == 0, result.stderr
    assert stored.exit_code == 0
    agree(stored, tmp_path / "run" / "probes")


@pytest.mark.parametrize("status", [401, 403])
def test_what_a_server_refuses_in_the_middle_can_be_synchronised_later(tmp_path: Path, status: int) -> None:
    with serving(lambda kind, n: status if kind == "stream" else None) as server:
        result = train(tmp_path, server, *SHORT)
        (refused,) = server.stored.runs.values()
    assert result.returncode == 0, result.stderr
    assert refused.history == []
    assert f"{status} encountered" in result.stderr
    assert "Some run data will not be synced, but it will still be written to disk" in result.stderr
    assert f"wandb sync --include-online {log_of(tmp_path).relative_to(tmp_path)}" in result.stdout
    assert done(tmp_path)
    agree(synced(tmp_path), tmp_path / "run" / "probes")


def test_a_server_that_dies_holds_nobody_up_and_a_later_sync_delivers_everything(tmp_path: Path) -> None:
    with serving() as server:
        process = start(tmp_path, server, "data.repeats=1000", "callbacks.probe.every_n_steps=500", *SHORT)
        wait_for(
            lambda: server.counts["stream"] and (tmp_path / "run" / "checkpoints" / "initial.ckpt").exists(), process
        )
    dead = time.monotonic()
    output = "".join(process.communicate(timeout=400))
    assert process.returncode == 0, output
    assert time.monotonic() - dead < 120
    assert done(tmp_path)
    assert "wandb sync --include-online" in output
    stored = synced(tmp_path)
    agree(stored, tmp_path / "run" / "probes")
    assert stored.exit_code == 0
    assert "probe_results" in stored.summary


@pytest.mark.parametrize("moment", ["training", "drawing"])
def test_nothing_logged_before_a_sigterm_is_lost(tmp_path: Path, moment: str) -> None:
    repeats = {"training": 500_000, "drawing": 1500}[moment]
    csv = ["+logger.csv._target_=layerprobe.training.continued_loggers.ContinuedCsvLogger", "+logger.csv.save_dir=run"]
    process = start(tmp_path, None, f"data.repeats={repeats}", "callbacks.probe.steps=[500,1000]", *csv)
    reached = {"training": "checkpoints/step_1000.ckpt", "drawing": "figures"}[moment]
    wait_for((tmp_path / "run" / reached).exists, process)
    process.send_signal(signal.SIGTERM)
    output = "".join(process.communicate(timeout=120))
    assert process.returncode == 128 + signal.SIGTERM, output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    logged = wandb_log.read_finished(log_of(tmp_path))
    assert logged.exit_code != 0
    results = pd.read_parquet(tmp_path / "run" / "probes" / "results.parquet")
    whole = [name for name, rows in results.groupby("checkpoint") if len(rows) == 4]
    assert len(whole) >= 2
    for name in whole:
        rows = results[results["checkpoint"] == name]
        expected = list(zip(rows["depth"], rows["test_error"], strict=True))
        assert logged.rows("probe/depth", f"probe/test_error/{name}") == expected
    metrics = pd.read_csv(tmp_path / "run" / "csv" / "metrics.csv")
    loss = next(name for name in metrics if name.startswith("train/loss"))
    rows = metrics[metrics[loss].notna()]
    assert len(rows) >= 10
    values = dict(logged.rows("trainer/global_step", loss))
    assert {step: values.get(step) for step in rows["step"]} == pytest.approx(
        dict(zip(rows["step"], rows[loss], strict=True))
    )
    assert ("probe_results" in logged.summary) == (moment == "drawing")


def test_training_goes_on_where_the_process_of_wandb_has_gone(tmp_path: Path) -> None:
    process = start(
        tmp_path, None, "data.repeats=2000", "callbacks.probe.every_n_steps=500", "trainer.log_every_n_steps=10"
    )
    wait_for((tmp_path / "run" / "checkpoints" / "step_500.ckpt").exists, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (core,) = [int(c) for c in children if "wandb-core" in Path(f"/proc/{c}/cmdline").read_text()]
    os.kill(core, signal.SIGKILL)
    output = "".join(process.communicate(timeout=200))
    assert process.returncode == 0, output
    assert "the process of Weights & Biases has died" in output
    assert done(tmp_path)
    results = pd.read_parquet(tmp_path / "run" / "probes" / "results.parquet")
    assert set(results["checkpoint"]) == {"initial", *(f"step_{n}" for n in range(500, 2001, 500)), "final"}
    logs = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(logs) in (1, 2)  # a log to which nothing had been written is removed
    assert wandb_log.read_finished(logs[-1]).exit_code == 0
    history = [row for log in logs for row in wandb_log.read(log).history]
    agree(wandb_log.Logged(logs[-1], history), tmp_path / "run" / "probes")
    loss = next(key for row in history for key in row if "train/loss" in key)
    steps = [row["trainer/global_step"] for row in history if loss in row]
    assert steps == sorted(set(steps))
    assert len(steps) == steps[-1] // 10 + 1
