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

from helpers.command import ROOT
from helpers.counted import steps_in
from helpers.slow_fits import WORDS as SLOW_FITS
from helpers.slow_fits import fits
from helpers.slurm_cluster import Cluster, missing_programs, wait_until
from layerprobe.models.digits_convnet import DigitsConvNet

pytestmark = [pytest.mark.slow(seconds=60), pytest.mark.slurm]

STEPS = 1500
# The same job each time: this value changes nothing about what is computed. It pauses at each step until it may hurry.
SAME = "trainer.log_every_n_steps"
JOB = [
    "experiment=xor_mlp", f"data.repeats={STEPS}", "seed=3", "callbacks.probe.steps=[100]", "logger=csv",
    "report.figures=false", "hydra/launcher=slurm_cpu", "hydra.launcher.mem_gb=1", "hydra.launcher.cpus_per_task=1",
    "+callbacks.count._target_=helpers.counted.CountsSteps", "+callbacks.count.path=${run_dir}/steps.txt",
    "+callbacks.count.pause=0.1",
]  # fmt: skip

# A launcher outlives the test that fails before its end, unless it is ended by the fixture.
STARTED: list[subprocess.Popen[str]] = []


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
        for process in STARTED:
            if process.poll() is None:
                process.kill()
                process.communicate()
        STARTED.clear()
        cluster.stop()


def script(cluster: Cluster, name: str, *words: str, cwd: Path) -> subprocess.Popen[str]:
    hidden = ("WANDB_", "SLURM_JOB", "PYTEST")
    environment = {key: value for key, value in cluster.environment.items() if not key.startswith(hidden)}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / name), *words],
        cwd=cwd,
        env=environment
        | {"HOME": str(cwd), "COLUMNS": "200", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    STARTED.append(process)
    return process


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
    counts = re.findall(r"Probed \S+ at step \d+: (\d+) layers?", (directory / "train.log").read_text())
    return sum(map(int, counts)), len(pd.read_parquet(directory / "probes" / "results.parquet"))


def check_like(found: Path, reference: Path, *, warned: bool = True) -> int:
    """The same weights after the same steps, the same results, and no probe done twice.

    Returns the number of steps that were trained twice: none where the run was warned.
    """
    whole, steps = steps_in(reference), steps_in(found)
    assert whole == list(range(len(whole)))
    assert sorted(set(steps)) == whole
    assert len(steps) == len(whole) or not warned, "a step was trained twice"
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
    return len(steps) - len(whole)


def log_of(sweep: Path, slurm_job: str) -> str:
    return "".join(file.read_text() for file in (sweep / ".submitit" / slurm_job).glob(f"{slurm_job}_*.out"))


def kill(directory: Path) -> None:
    """Kill a job's process, as the machine does that runs out of memory."""
    found = re.search(r"\d+", (directory / "run.lock").read_text())
    assert found
    os.kill(int(found.group()), signal.SIGKILL)


def ended(cluster: Cluster, slurm_job: str) -> str:
    wait_until(
        lambda: cluster.state_of(slurm_job) not in ("PENDING", "RUNNING", "COMPLETING"), f"the end of {slurm_job}"
    )
    return cluster.state_of(slurm_job)


@pytest.fixture(scope="module")
def disturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[int, str]]:
    """Five jobs: left alone, warned in training, failing, cancelled, killed. The launcher is killed too.

    Then the sweep is continued.
    """
    cwd = tmp_path_factory.mktemp("sweep")
    sweep = cwd / "sweep"
    every = "callbacks.guard.every_n_seconds=1"
    words = ["-m", *JOB, every, f"{SAME}=50,51,broken,53,54", "hydra.sweep.dir=sweep"]
    launcher = script(cluster, "train.py", *words, cwd=cwd)
    wait_until(lambda: launcher.poll() is not None or len(sent(sweep)) == 5, "five jobs")
    assert launcher.poll() is None, launcher.communicate()[0]
    (sweep / "0" / "hurry").touch()
    launcher.send_signal(signal.SIGKILL)
    launcher.communicate()
    first = sent(sweep)
    wait_until(lambda: step(sweep / "1") >= 0, "training in job 1")
    cluster.run("scancel", "--signal=USR2", first[1])
    wait_until(lambda: step(sweep / "3") >= 0, "training in job 3")
    cluster.run("scancel", first[3])
    for number in ("1", "3"):
        (sweep / number / "hurry").touch()
    states = {"cancelled": ended(cluster, first[3]), "saved": str((sweep / "3" / "last.ckpt").exists())}
    # Beyond the probing of step 100, whose end a process that is killed in it does not log.
    wait_until(lambda: step(sweep / "4") > 110 and (sweep / "4" / "last.ckpt").exists(), "a saving in job 4")
    kill(sweep / "4")
    (sweep / "4" / "hurry").touch()
    states |= {"killed": ended(cluster, first[4]), "failed": ended(cluster, first[2])}
    saved = torch.load(sweep / "4" / "last.ckpt", weights_only=True)["global_step"]
    (sweep / "killed.json").write_text(json.dumps([len(steps_in(sweep / "4")), saved]))
    status = script(cluster, "sweep.py", f"status={sweep}", cwd=cwd).communicate()[0]
    again = script(cluster, "sweep.py", f"continue={sweep}", cwd=cwd)
    output = again.communicate(timeout=900)[0]
    (sweep / "output.txt").write_text(output)
    (sweep / "status.txt").write_text(status)
    (sweep / "states.json").write_text(json.dumps(states | {"code": again.returncode}))
    return sweep, output, first


def test_a_failed_job_is_failed_for_slurm_and_the_others_are_done(disturbed: tuple[Path, str, dict[int, str]]) -> None:
    sweep, output, first = disturbed
    statuses = [summary(sweep / str(number))["status"] for number in range(5)]
    assert statuses == ["done", "done", "failed", "done", "done"], output
    states = json.loads((sweep / "states.json").read_text())
    expected = {"cancelled": "CANCELLED", "saved": "True", "killed": "FAILED", "failed": "FAILED", "code": 1}
    assert states == expected
    assert "trainer.log_every_n_steps is 'broken', expected a whole number" in log_of(sweep, first[2])
    assert "trainer.log_every_n_steps is 'broken'" in summary(sweep / "2")["error"]
    assert "1 of 5 jobs are not done" in output


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


def test_a_killed_job_was_sent_again_and_repeated_what_was_not_saved(
    disturbed: tuple[Path, str, dict[int, str]],
) -> None:
    sweep, _, _ = disturbed
    last, saved = json.loads((sweep / "killed.json").read_text())
    assert 0 < saved <= last
    assert check_like(sweep / "4", sweep / "0", warned=False) == last - saved


def test_a_continued_job_keeps_its_metrics(disturbed: tuple[Path, str, dict[int, str]]) -> None:
    sweep, _, _ = disturbed
    for number, every in ((0, 50), (1, 51), (3, 53), (4, 54)):
        metrics = pd.read_csv(sweep / str(number) / "csv" / "metrics.csv")
        steps = metrics.loc[metrics["train/loss"].notna(), "step"].tolist()
        assert steps == list(range(every - 1, STEPS, every))


def test_the_status_tells_what_each_job_did(disturbed: tuple[Path, str, dict[int, str]]) -> None:
    text = (disturbed[0] / "status.txt").read_text()
    assert "5 jobs" in text
    assert "failed" in text
    assert "interrupted" in text
    assert "SLURM job" in text
    assert "FAILED" in text


def test_two_tasks_leave_together_and_go_on(cluster: Cluster, tmp_path: Path) -> None:
    """Two processes on the CPU, one job left alone and one warned in training."""
    sweep = tmp_path / "sweep"
    words = [
        "-m", *JOB, "trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=2", "hydra.launcher.tasks_per_node=2",
        'hydra.launcher.setup=["export MASTER_ADDR=127.0.0.1"]', f"{SAME}=50,51", "hydra.sweep.dir=sweep",
        "logger=wandb",
    ]  # fmt: skip
    launcher = script(cluster, "train.py", *words, cwd=tmp_path)
    wait_until(lambda: launcher.poll() is not None or len(sent(sweep)) == 2, "two jobs")
    (sweep / "0" / "hurry").touch()
    wait_until(lambda: launcher.poll() is not None or step(sweep / "1") >= 0, "training", 900)
    assert launcher.poll() is None, launcher.communicate()[0]
    cluster.run("scancel", "--signal=USR2", sent(sweep)[1])
    (sweep / "1" / "hurry").touch()
    output = launcher.communicate(timeout=900)[0]
    assert launcher.returncode == 0, output
    assert cluster.show(sent(sweep)[1])["Restarts"] == "1"
    check_like(sweep / "1", sweep / "0")
    assert [file.name for file in (sweep / "1").glob("*.log")] == ["train.log"], "a log of the second process"
    text = (sweep / "1" / "train.log").read_text()
    assert text.count("Probed final") == 1
    assert text.count("Going on from") == 1
    starts = [folder.name.rsplit("-", 1)[1] for folder in (sweep / "1" / "wandb").glob("offline-run-*")]
    assert starts == [(sweep / "1" / "run_id").read_text().strip()] * 2, "not one run in the dashboard"


def test_a_first_task_that_fails_at_its_start_ends_the_other_which_waits_for_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    words = [
        "-m", *JOB, "trainer=ddp", "trainer.accelerator=cpu", "hydra.launcher.tasks_per_node=2",
        'hydra.launcher.setup=["export MASTER_ADDR=127.0.0.1"]', "hydra.sweep.dir=sweep",
        "+callbacks.first._target_=helpers.first_fails.FirstFails",
    ]  # fmt: skip
    launcher = script(cluster, "train.py", *words, cwd=tmp_path)
    output = launcher.communicate(timeout=600)[0]
    assert launcher.returncode == 1, output
    assert summary(tmp_path / "sweep" / "0")["error"].endswith("the first task fails"), output
    assert cluster.state_of(sent(tmp_path / "sweep")[0]) == "FAILED"


def test_a_time_limit_again_and_again(
    cluster: Cluster, tmp_path: Path, disturbed: tuple[Path, str, dict[int, str]]
) -> None:
    """One job needs two starts and has them; one needs more than `max_num_timeout` allows.

    The limit is set when a job trains, at each start that is to be ended by it: SLURM looks twice a minute.
    """
    twice, too_often = range(2)
    sweep, alone = tmp_path / "sweep", disturbed[0] / "0"
    words = [
        "-m", *JOB, "callbacks.count.pause=0.2", "hydra.launcher.timeout_min=9",
        "hydra.launcher.signal_delay_s=60", "hydra.launcher.max_num_timeout=1", f"{SAME}=51,52",
        "hydra.sweep.dir=sweep",
    ]  # fmt: skip

    def limit(number: int, minutes: int) -> None:
        cluster.run("scontrol", "update", f"jobid={jobs[number]}", f"TimeLimit={minutes}")

    def limit_once_it_trains(number: int, trained: int = 0) -> None:
        file = sweep / str(number) / "steps.txt"
        wait_until(lambda: file.exists() and len(steps_in(file.parent)) > trained, f"training in job {number}")
        hours, minutes, _ = cluster.show(jobs[number])["RunTime"].split(":")
        limit(number, 60 * int(hours) + int(minutes) + 2)

    launcher = script(cluster, "train.py", *words, cwd=tmp_path)
    wait_until(lambda: launcher.poll() is not None or len(sent(sweep)) == 2, "two jobs")
    assert launcher.poll() is None, launcher.communicate()[0]
    jobs = sent(sweep)
    first = {}
    for number in (twice, too_often):
        limit_once_it_trains(number)
    for number in (twice, too_often):
        wait_until(lambda number=number: cluster.show(jobs[number])["Restarts"] == "1", "the first time limit")
        limit(number, 60)
        first[number] = len(steps_in(sweep / str(number)))
    (sweep / str(twice) / "hurry").touch()
    limit_once_it_trains(too_often, first[too_often])
    output = launcher.communicate(timeout=600)[0]
    assert [summary(sweep / str(number))["status"] for number in jobs] == ["done", "interrupted"], output
    assert 0 < first[twice] < STEPS
    check_like(sweep / str(twice), alone)
    assert cluster.show(jobs[twice])["Restarts"] == "1"
    assert "timed-out too many times" in summary(sweep / str(too_often))["error"]
    assert (cluster.show(jobs[too_often])["Restarts"], cluster.state_of(jobs[too_often])) == ("1", "FAILED")
    before = len(steps_in(sweep / str(too_often)))

    (sweep / str(too_often) / "hurry").touch()
    again = script(cluster, "sweep.py", f"continue={sweep}", cwd=tmp_path)
    output = again.communicate(timeout=600)[0]
    assert again.returncode == 0, output
    assert 0 < before < STEPS
    check_like(sweep / str(too_often), alone)


def test_a_probing_job_goes_on_layer_by_layer(cluster: Cluster, tmp_path: Path) -> None:
    """`scripts/probe.py`, one job left alone and one warned between two layers."""
    torch.save(DigitsConvNet(10, 0.5).state_dict(), tmp_path / "x.pt")
    sweep = tmp_path / "sweep"
    words = [
        "-m", "checkpoint=x.pt", "model=digits_convnet", "data=digits", "probe.l2=[1e-2]", "reducer=channel_mean",
        "logger=none", "hydra/launcher=slurm_cpu", "hydra.launcher.mem_gb=1", "hydra.launcher.cpus_per_task=1",
        f"{SAME}=50,51", "hydra.sweep.dir=sweep", *SLOW_FITS,
    ]  # fmt: skip
    launcher = script(cluster, "probe.py", *words, cwd=tmp_path)
    wait_until(lambda: launcher.poll() is not None or fits(tmp_path, "1") >= 3, "probing in job 1")
    assert launcher.poll() is None, launcher.communicate()[0]
    cluster.run("scancel", "--signal=USR2", sent(sweep)[1])
    (tmp_path / "go").touch()
    output = launcher.communicate(timeout=600)[0]
    assert launcher.returncode == 0, output
    assert cluster.show(sent(sweep)[1])["Restarts"] == "1"
    assert "stopped by SIGUSR2 before layer" in log_of(sweep, sent(sweep)[1])
    assert fits(tmp_path, "0") == fits(tmp_path, "1"), "a layer was probed twice"
    ours, theirs = (pd.read_parquet(sweep / number / "probes" / "results.parquet") for number in "10")
    pd.testing.assert_frame_equal(ours.drop(columns="seconds"), theirs.drop(columns="seconds"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("hydra/launcher=slurm_gpu", "hydra.launcher.gpus_per_node=3"), "node configuration is not available"),
        (("hydra.launcher.partition=nowhere",), "nvalid partition"),
    ],
)
def test_what_slurm_has_not_is_one_message(cluster: Cluster, tmp_path: Path, asked: tuple[str, ...], said: str) -> None:
    process = script(cluster, "train.py", "-m", *JOB, *asked, "hydra.sweep.dir=sweep", cwd=tmp_path)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert output.count("SLURM refused the jobs") == 1
    assert said in output
    assert "partition main*" in output
    assert "gpu:2" in output


@pytest.mark.long
def test_every_disturbance(cluster: Cluster, tmp_path: Path) -> None:
    """Preemption with and without grace, requeue, a kill, a node that goes down, a time limit; one job for each."""
    alone, no_grace, requeued, killed, grace, node_down, time_limit = range(7)
    sweep = tmp_path / "sweep"
    words = [
        "-m", *JOB, "data.repeats=6000", "callbacks.count.pause=0", "hydra.launcher.partition=preempt",
        "hydra.launcher.cpus_per_task=8",
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
    kill(sweep / str(killed))
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
        warned = number not in (killed, node_down)
        print(f"job {number}: {check_like(sweep / str(number), sweep / str(alone), warned=warned)} steps repeated")
        ids = {folder.name.rsplit("-", 1)[1] for folder in (sweep / str(number) / "wandb").glob("offline-run-*")}
        assert ids == {(sweep / str(number) / "run_id").read_text().strip()}, "a run has several ids in the dashboard"
