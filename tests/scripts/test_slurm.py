"""Sweeps on a real SLURM cluster, disturbed in every way, lose nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from command import ROOT
from slurm_cluster import Cluster, missing_programs, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

STEPS = 6000
# The same job each time: this value changes nothing about what is computed.
SAME = "trainer.log_every_n_steps"
JOB = [
    "experiment=xor_mlp", f"data.repeats={STEPS}", "seed=3", "callbacks.probe.steps=[100]", "logger=csv",
    "hydra/launcher=slurm_cpu", "hydra.launcher.mem_gb=1", "hydra.launcher.cpus_per_task=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if missing := missing_programs():
        reason = f"SLURM is not installed: no {', '.join(missing)}"
        if os.environ.get("LAYERPROBE_REQUIRE_SLURM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    if os.geteuid() != 0:
        pytest.skip("the cluster's daemons run as root")
    cluster = Cluster(tmp_path_factory.mktemp("slurm") / "c")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def script(cluster: Cluster, name: str, *words: str, cwd: Path) -> subprocess.Popen[str]:
    hidden = ("WANDB_", "SLURM_JOB", "PYTEST")
    environment = {key: value for key, value in cluster.environment.items() if not key.startswith(hidden)}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / name), *words],
        cwd=cwd,
        env=environment | {"HOME": str(cwd), "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def sent(sweep: Path) -> dict[int, str]:
    """SLURM's ids of the jobs that have been sent."""
    try:
        jobs = json.loads((sweep / "sweep.json").read_text())["jobs"]
    except FileNotFoundError:
        return {}
    return {int(number): job["slurm_job"] for number, job in jobs.items() if "slurm_job" in job}


def summary(directory: Path) -> dict[str, Any]:
    try:
        return json.loads((directory / "run.json").read_text())
    except FileNotFoundError:
        return {"status": ""}


def step(directory: Path) -> int:
    """The training step that a job has reported; -1 where it has not trained yet."""
    try:
        progress = json.loads((directory / "progress.json").read_text())
    except FileNotFoundError:
        return -1
    return -1 if "layer" in progress else progress["step"]


def probes(directory: Path) -> tuple[int, int]:
    """How many layers have been probed in all, and how many there are results of."""
    counts = re.findall(r"Probed \S+ at step \d+: (\d+) layers", (directory / "train.log").read_text())
    return sum(map(int, counts)), len(pd.read_parquet(directory / "probes" / "results.parquet"))


def check_like(found: Path, reference: Path) -> None:
    """The same weights after the same number of steps, the same results, and no probe done twice."""
    for name in ("initial", "step_100", "final"):
        ours, theirs = (
            torch.load(directory / "checkpoints" / f"{name}.ckpt", weights_only=True)
            for directory in (found, reference)
        )
        assert ours["global_step"] == theirs["global_step"]
        assert all(torch.equal(value, ours["state_dict"][key]) for key, value in theirs["state_dict"].items()), name
    ours, theirs = (pd.read_parquet(directory / "probes" / "results.parquet") for directory in (found, reference))
    pd.testing.assert_frame_equal(ours.drop(columns="seconds"), theirs.drop(columns="seconds"))
    done, there = probes(found)
    assert done == there, f"{done - there} probes were done twice"


def log_of(sweep: Path, slurm_job: str) -> str:
    return "".join(file.read_text() for file in (sweep / ".submitit" / slurm_job).glob(f"{slurm_job}_*.out"))


@pytest.fixture(scope="module")
def disturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[int, str]]:
    """Four jobs: one left alone, one warned in training, one that fails, one cancelled. The launcher is killed.

    Then the sweep is continued.
    """
    cwd = tmp_path_factory.mktemp("sweep")
    sweep = cwd / "sweep"
    words = ["-m", *JOB, f"{SAME}=50,51,broken,53", "hydra.sweep.dir=sweep"]
    launcher = script(cluster, "train.py", *words, cwd=cwd)
    wait_until(lambda: launcher.poll() is not None or len(sent(sweep)) == 4, "four jobs")
    assert launcher.poll() is None, launcher.communicate()[0]
    launcher.send_signal(signal.SIGKILL)
    launcher.communicate()
    first = sent(sweep)
    wait_until(lambda: step(sweep / "1") >= 0, "training in job 1")
    cluster.run("scancel", "--signal=USR2", first[1])
    wait_until(lambda: step(sweep / "3") >= 0, "training in job 3")
    cluster.run("scancel", first[3])
    wait_until(lambda: cluster.state_of(first[3]) == "CANCELLED", "the end of job 3")
    states = {"cancelled": cluster.state_of(first[3]), "saved": str((sweep / "3" / "last.ckpt").exists())}
    wait_until(lambda: cluster.state_of(first[2]) not in ("PENDING", "RUNNING", "COMPLETING"), "the end of job 2")
    states["failed"] = cluster.state_of(first[2])
    status = script(cluster, "sweep.py", f"status={sweep}", cwd=cwd).communicate()[0]
    again = script(cluster, "sweep.py", f"continue={sweep}", cwd=cwd)
    output = again.communicate(timeout=900)[0]
    (sweep / "output.txt").write_text(output)
    (sweep / "status.txt").write_text(status)
    (sweep / "states.json").write_text(json.dumps(states | {"code": again.returncode}))
    return sweep, output, first


def test_a_failed_job_is_failed_for_slurm_and_the_others_are_done(disturbed: tuple[Path, str, dict[int, str]]) -> None:
    sweep, output, first = disturbed
    assert [summary(sweep / str(number))["status"] for number in range(4)] == ["done", "done", "failed", "done"], output
    states = json.loads((sweep / "states.json").read_text())
    assert states == {"cancelled": "CANCELLED", "saved": "True", "failed": "FAILED", "code": 1}
    assert "Traceback" in log_of(sweep, first[2])
    assert "TypeError" in output
    assert "1 of 4 jobs are not done" in output


def test_a_warned_job_was_requeued_and_went_on(disturbed: tuple[Path, str, dict[int, str]], cluster: Cluster) -> None:
    sweep, _, first = disturbed
    assert cluster.show(first[1])["Restarts"] == "1"
    assert "stopped by SIGUSR2" in log_of(sweep, first[1])
    check_like(sweep / "1", sweep / "0")


def test_a_cancelled_job_was_sent_again_and_went_on(disturbed: tuple[Path, str, dict[int, str]]) -> None:
    sweep, _, first = disturbed
    assert sent(sweep)[3] != first[3]
    assert sent(sweep)[0] == first[0], "the launcher sent a job twice"
    check_like(sweep / "3", sweep / "0")


def test_a_continued_job_keeps_its_metrics(disturbed: tuple[Path, str, dict[int, str]]) -> None:
    sweep, _, _ = disturbed
    for number, every in ((0, 50), (1, 51), (3, 53)):
        metrics = pd.read_csv(sweep / str(number) / "csv" / "metrics.csv")
        steps = metrics.loc[metrics["train/loss"].notna(), "step"].tolist()
        assert steps == list(range(every - 1, STEPS, every))


def test_the_status_tells_what_each_job_did(disturbed: tuple[Path, str, dict[int, str]]) -> None:
    text = (disturbed[0] / "status.txt").read_text()
    assert "4 jobs" in text
    assert "failed" in text
    assert "interrupted" in text


def test_two_tasks_leave_together_and_go_on(cluster: Cluster, tmp_path: Path) -> None:
    """Two processes on the CPU, one job left alone and one warned in training."""
    sweep = tmp_path / "sweep"
    words = [
        "-m", *JOB, "trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=2", "hydra.launcher.tasks_per_node=2",
        'hydra.launcher.setup=["export MASTER_ADDR=127.0.0.1"]', f"{SAME}=50,51", "hydra.sweep.dir=sweep",
        "logger=wandb",
    ]  # fmt: skip
    launcher = script(cluster, "train.py", *words, cwd=tmp_path)
    wait_until(lambda: launcher.poll() is not None or step(sweep / "1") >= 0, "training", 900)
    assert launcher.poll() is None, launcher.communicate()[0]
    cluster.run("scancel", "--signal=USR2", sent(sweep)[1])
    output = launcher.communicate(timeout=900)[0]
    assert launcher.returncode == 0, output
    assert cluster.show(sent(sweep)[1])["Restarts"] == "1"
    check_like(sweep / "1", sweep / "0")
    assert [file.name for file in (sweep / "1").glob("*.log")] == ["train.log"], "a log of the second process"
    text = (sweep / "1" / "train.log").read_text()
    assert text.count("Probed final") == 1
    assert text.count("Going on from") == 1
    starts = [folder.name.rsplit("-", 1)[1] for folder in (sweep / "1" / "wandb").glob("offline-run-*")]
    assert starts == [(sweep / "1" / "run_id").read_text()] * 2, "not one run in the dashboard"


@pytest.mark.long
def test_every_disturbance(cluster: Cluster, tmp_path: Path) -> None:
    """Preemption with and without grace, requeue, a kill, a node that goes down, a time limit; one job for each."""
    alone, no_grace, requeued, killed, grace, node_down, time_limit = range(7)
    sweep = tmp_path / "sweep"
    words = [
        "-m", *JOB, "hydra.launcher.partition=preempt", "hydra.launcher.cpus_per_task=8",
        "hydra.launcher.timeout_min=60", "callbacks.guard.every_n_seconds=1", f"{SAME}=range(50,57)",
        "hydra.sweep.dir=sweep", "logger=wandb",
    ]  # fmt: skip
    launcher = script(cluster, "train.py", *words, cwd=tmp_path)
    wait_until(lambda: launcher.poll() is not None or len(sent(sweep)) == 7, "seven jobs")
    assert launcher.poll() is None, launcher.communicate()[0]
    jobs = sent(sweep)

    def training(number: int) -> str:
        wait_until(lambda: step(sweep / str(number)) >= 200, f"training in job {number}", 900)
        return cluster.show(jobs[number])["NodeList"]

    def preempt(number: int, seconds: int) -> None:
        node = training(number)
        cluster.run("scontrol", "update", "partitionname=preempt", f"GraceTime={seconds}")
        cluster.run("sbatch", "-p", "main", "-w", node, "--exclusive", "--wrap", "sleep 1", "-o", "/dev/null")
        wait_until(lambda: cluster.show(jobs[number])["Restarts"] == "1", "preemption", 120)

    preempt(no_grace, 0)
    training(requeued)
    cluster.run("scontrol", "requeue", jobs[requeued])
    training(killed)
    os.kill(int(re.search(r"\d+", (sweep / str(killed) / "run.lock").read_text()).group()), signal.SIGKILL)  # type: ignore[union-attr]
    preempt(grace, 20)
    node = training(node_down)
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    wait_until(lambda: cluster.show(jobs[node_down])["Restarts"] == "1", "requeue of the node's job", 120)
    cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
    training(time_limit)
    cluster.run("scontrol", "update", f"jobid={jobs[time_limit]}", "TimeLimit=2")
    wait_until(lambda: cluster.show(jobs[time_limit])["Restarts"] == "1", "the warning before the time limit", 300)
    cluster.run("scontrol", "update", f"jobid={jobs[time_limit]}", "TimeLimit=60")
    output = launcher.communicate(timeout=1500)[0]
    assert launcher.returncode == 1, output
    assert summary(sweep / str(killed))["status"] == "killed"
    assert cluster.state_of(jobs[killed]) == "FAILED"
    output += script(cluster, "sweep.py", f"continue={sweep}", cwd=tmp_path).communicate(timeout=900)[0]
    (tmp_path / "output.txt").write_text(output)
    assert [summary(sweep / str(number))["status"] for number in range(7)] == ["done"] * 7, output
    for number in range(1, 7):
        check_like(sweep / str(number), sweep / str(alone))
        ids = {folder.name.rsplit("-", 1)[1] for folder in (sweep / str(number) / "wandb").glob("offline-run-*")}
        assert ids == {(sweep / str(number) / "run_id").read_text()}, "a run has several ids in the dashboard"
