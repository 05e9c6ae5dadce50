"""Training with a server of Weights & Biases on this machine that works."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from helpers import made_runs
from helpers.online import ROOT, agree, command, run, start, train
from helpers.wandb_server import ENTITY, serving

pytestmark = pytest.mark.slow


def test_a_run_arrives_whole(tmp_path: Path) -> None:
    with serving() as server:
        result = train(tmp_path, server, "seed=3", "model.width=3")
        assert result.returncode == 0, result.stderr
        (stored,) = server.stored.runs.values()
        artifacts = list(server.stored.artifacts.values())
    assert stored.exit_code == 0
    agree(stored, tmp_path / "run" / "probes")
    assert stored.about["displayName"].startswith("xor_mlp ")
    assert stored.about["displayName"].endswith("seed=3 width=3")
    assert stored.about["groupName"].startswith("xor_mlp")
    assert "seed" not in stored.about["groupName"]
    assert stored.about["jobType"] == "train"
    assert "model.width=3" in stored.about["tags"]
    assert stored.config["seed"] == 3
    assert all(artifact["state"] == "COMMITTED" for artifact in artifacts)
    (probes,) = [artifact for artifact in artifacts if artifact["artifactTypeName"] == "probes"]
    assert {"results.parquet", "path.parquet", "correct.parquet"} <= set(probes["files"])
    assert len([name for name in probes["files"] if name.startswith("heads/")]) == 8


def test_five_jobs_of_which_one_fails_are_five_runs_and_one_is_marked(tmp_path: Path) -> None:
    sizes = [4, 2, 10**19, 8, 16]  # nobody can count so far, which shows only when batches are made
    swept = f"data.batch_size={','.join(map(str, sizes))}"
    with serving() as server:
        result = run(command(swept, "hydra.sweep.dir=sweep", flags=("-m",)), tmp_path, server)
        runs = server.stored.runs
    assert result.returncode == 1, result.stderr
    assert "the sweep goes on" in result.stdout + result.stderr
    for number, size in enumerate(sizes):
        directory = tmp_path / "sweep" / str(number)
        stored = runs.pop((directory / "run_id").read_text().strip())
        failed = size == 10**19
        assert stored.exit_code == (1 if failed else 0)
        assert json.loads((directory / "run.json").read_text())["status"] == ("failed" if failed else "done")
        assert stored.config["data"]["batch_size"] == size
        assert stored.about["displayName"] == stored.about["groupName"]
        assert stored.about["displayName"].startswith("xor_mlp ")
        assert stored.about["displayName"].endswith(f" batch_size={size}")
        assert {"xor_mlp", f"data.batch_size={size}"} <= set(stored.about["tags"])
        if failed:
            assert stored.rows("probe/depth") == []
        else:
            agree(stored, directory / "probes")
    assert runs == {}


def test_a_killed_run_goes_on_under_its_id(tmp_path: Path) -> None:
    with serving() as server:
        options = ("data.repeats=1500", "callbacks.probe.every_n_steps=500")
        process = start(tmp_path, server, *options)
        while not list((tmp_path / "run").glob("checkpoints/step_500.ckpt")) and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        result = train(tmp_path, server, *options)
        assert result.returncode == 0, result.stderr
        (stored,) = server.stored.runs.values()
    assert stored.id == (tmp_path / "run" / "run_id").read_text().strip()
    assert stored.exit_code == 0
    agree(stored, tmp_path / "run" / "probes")
    steps = [row["trainer/global_step"] for row in stored.history if any("train/loss" in key for key in row)]
    assert steps == sorted(set(steps)) != []


def test_the_report_saves_its_views_and_renews_them(tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    made_runs.write_sweep(tmp_path / "outputs", 3)
    script = [sys.executable, str(ROOT / "scripts" / "report.py"), "figures=false", "wandb=true", "project=p"]
    with serving() as server:
        shown = [run(script, tmp_path, server) for _ in range(2)]
        views = list(server.stored.views.values())
    assert [result.returncode for result in shown] == [0, 0], shown[-1].stderr
    addresses = [[line for line in result.stdout.splitlines() if line.startswith("http")] for result in shown]
    assert addresses[0] == addresses[1]
    assert len(addresses[0]) == len(views) == 2
    for view, address in zip(views, addresses[0], strict=True):
        assert address.startswith(f"{server.url}/{ENTITY}/p")
        assert (view["project"]["name"], view["project"]["entityName"]) == ("p", ENTITY)
        assert "probe/test_error/final" in view["spec"]
        assert "probe/conv1/test_error" in view["spec"]
        assert "optimizer.lr" in view["spec"]


def test_without_an_account_the_page_is_there_and_the_views_are_explained(tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    made_runs.write_sweep(tmp_path / "outputs", 3)
    script = [sys.executable, str(ROOT / "scripts" / "report.py"), "figures=false", "wandb=true", "project=p"]
    refused = run(script, tmp_path, None)
    assert refused.returncode == 1
    assert "wandb login" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (tmp_path / "report.html").exists()
