"""A history that survives kills of the run and of wandb's own process: every row once, offline and on a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import wandb_log
from helpers.online import environment
from helpers.wandb_server import StoredRun, serving

pytest.importorskip("wandb")

# One process imports everything, then forks runs. Each logs 400 rows of training and a curve of ten points at every
# hundredth, and is killed, or loses wandb's process, at a random moment; the last one goes to its end.
RUNS = """
import os, random, signal, sys, time, types, warnings
from pathlib import Path
import numpy, wandb
from layerprobe.results.wandb_history import WandbHistory
from layerprobe.results.wandb_sink import finish_run
warnings.simplefilter("ignore")
directory, mode, seed, n_kills, whom = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
if whom == "core in one second":  # wandb names a folder by the second of its start
    now = time.time()
    wandb.sdk.wandb_init.time = types.SimpleNamespace(**(vars(time) | {"time": lambda: now}))

def start():
    wandb.run = None
    settings = wandb.Settings(silent=True, init_timeout=20)
    return wandb.init(mode=mode, project="p", dir=directory, id="killed-run", resume="allow", settings=settings)

def restart():
    try:
        wandb.teardown()
    except Exception:
        pass
    return start()

def core():
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(c) for c in children if b"wandb-core" in Path(f"/proc/{c}/cmdline").read_bytes()]

def work(first, pause, moments):
    history = WandbHistory(start(), restart)
    Path(directory, "started").touch()
    deaths = sorted(moments.uniform(0, 400) for _ in range(n_kills)) if whom != "run" else []
    for step in range(first, 400):
        if deaths and step > deaths[0]:
            os.kill(core()[0], signal.SIGKILL)
            deaths.pop(0)
        history.log({"loss": 1 / (1 + step), "trainer/global_step": step}, f"{step} loss")
        if step % 100 == 0:
            history.define(f"curve.{step}", step_metric="depth", step_sync=True)
            for depth in range(10):
                history.log({"depth": depth, f"curve.{step}": depth / 10}, f"curve {step} {depth}")
            history.log_made(lambda: {"picture": wandb.Image(numpy.zeros((2, 2)))}, f"picture {step}")
        time.sleep(pause)
    finish_run()

moments = random.Random(seed)
if whom == "run":
    for _ in range(n_kills):
        Path(directory, "started").unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            work(0, 0.004, moments)
            os._exit(0)
        while not Path(directory, "started").exists():
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 1.5))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        time.sleep(1.1)
work(0, 0.0, moments)
"""


def run(directory: Path, mode: str, seed: int, n_kills: int, whom: str, server=None) -> None:
    (directory / "run").mkdir()
    command = [sys.executable, "-c", RUNS, str(directory / "run"), mode, str(seed), str(n_kills), whom]
    done = subprocess.run(command, env=environment(directory, server), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def check(rows: list[dict]) -> None:
    """Every row once."""
    assert sorted(row["trainer/global_step"] for row in rows if "loss" in row) == list(range(400))
    for step in range(0, 400, 100):
        found = [(row["depth"], row[f"curve.{step}"]) for row in rows if f"curve.{step}" in row]
        assert found == [(depth, depth / 10) for depth in range(10)]
    assert sum("picture" in row for row in rows) == 4


def logs(directory: Path) -> list[Path]:
    found = (directory / "run" / "wandb").glob("*run-2*")
    return sorted(found, key=lambda log: log.name.removeprefix("offline-"))


def offline(directory: Path) -> list[dict]:
    wandb_log.read_finished(logs(directory)[-1])
    return [row for log in logs(directory) for row in wandb_log.read(log).history]


def synced(directory: Path) -> StoredRun:
    with serving() as server:
        sync = [str(Path(sys.executable).with_name("wandb")), "sync", "--yes", *map(str, logs(directory))]
        done = subprocess.run(
            sync, env=environment(directory, server), capture_output=True, text=True, timeout=120, cwd=directory
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (stored,) = server.stored.runs.values()
        return stored


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["run", "core"])
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_every_row_once_after_kills_at_random_moments(tmp_path: Path, mode: str, whom: str) -> None:
    if mode == "offline":
        run(tmp_path, mode, 1, 2, whom)
        check(offline(tmp_path))
        check(synced(tmp_path).history)
        return
    with serving() as server:
        run(tmp_path, mode, 1, 2, whom, server)
        (stored,) = server.stored.runs.values()
    assert stored.exit_code == 0
    check(stored.history)


@pytest.mark.slow
def test_every_row_once_where_wandb_is_started_again_within_a_second(tmp_path: Path) -> None:
    run(tmp_path, "offline", 25, 2, "core in one second")  # with this seed each process writes a part of the rows
    assert [log.name.split("killed-run")[1] for log in logs(tmp_path)] == ["", "-1", "-2"]
    check(offline(tmp_path))
    check(synced(tmp_path).history)
