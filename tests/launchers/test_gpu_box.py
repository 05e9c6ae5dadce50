"""A sweep on one machine, with jobs that fail, are killed, and are started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from helpers.slurm_cluster import wait_until

pytestmark = pytest.mark.slow

APP = Path(__file__).with_name("app.py")


def start(cwd: Path, *words: str) -> subprocess.Popen[str]:
    arguments = [
        sys.executable, str(APP), "-m", "hydra/launcher=gpu_box", f"hydra.launcher.lock_dir={cwd}",
        f"hydra.searchpath=[file://{APP.parents[2] / 'conf'}]", f"marks={cwd / 'marks'}", "hydra.sweep.dir=sweep",
        *words,
    ]  # fmt: skip
    environment = os.environ | {"COLUMNS": "160", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        arguments, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def marks(cwd: Path) -> list[tuple[str, int, str, float, int]]:
    lines = (cwd / "marks").read_text().split("\n") if (cwd / "marks").exists() else []
    rows = [line.split(" ") for line in lines if line]
    return [(kind, int(number), device, float(when), int(pid)) for kind, number, device, when, pid in rows]


def statuses(sweep: Path) -> dict[int, str]:
    return {int(file.parent.name): json.loads(file.read_text())["status"] for file in sweep.glob("*/run.json")}


def test_killed_and_continued(tmp_path: Path) -> None:
    """One job is broken and one is killed; the others are done, on two devices; a second start does what is left."""
    n, broken, slow = 5, 3, 1
    words = [
        f"number={','.join(map(str, range(n)))}",
        f"broken={broken}",
        f"slow={slow}",
        "hydra.launcher.devices=[x,y]",
    ]
    sweep = start(tmp_path, *words)

    def pids() -> list[int]:
        return [pid for kind, number, _, _, pid in marks(tmp_path) if kind == "begin" and number == slow]

    wait_until(lambda: pids() or sweep.poll() is not None, "the slow job")
    os.kill(pids()[0], signal.SIGKILL)
    output = sweep.communicate(timeout=600)[0]
    assert sweep.returncode == 1, output
    expected = dict.fromkeys(range(n), "done") | {broken: "failed", slow: "killed"}
    assert statuses(tmp_path / "sweep") == expected
    assert "killed by SIGKILL" in output
    assert "ValueError: this one is broken" in output
    assert f"2 of {n} jobs are not done" in output
    assert "Traceback" in (tmp_path / "sweep" / str(broken) / "output.log").read_text()

    spans = defaultdict(list)
    begins = {number: when for kind, number, _, when, _ in marks(tmp_path) if kind == "begin"}
    for kind, number, device, when, _ in marks(tmp_path):
        if kind == "end":
            spans[device].append((begins[number], when))
    used = {device for kind, _, device, _, _ in marks(tmp_path) if kind == "begin"}
    assert used == {"x", "y"}, "a device was left idle"
    for device in spans.values():
        device.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(device)), "two jobs on one device"

    (tmp_path / "sweep" / str(slow) / "go").touch()
    output = start(tmp_path, *words).communicate(timeout=600)[0]
    assert statuses(tmp_path / "sweep") == dict.fromkeys(range(n), "done") | {broken: "failed"}
    done = [number for kind, number, *_ in marks(tmp_path) if kind == "end"]
    assert sorted(done) == [number for number in range(n) if number != broken], "a job was done twice or not at all"
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv").set_index("number")["value"].drop(broken)
    assert table.to_dict() == {number: number**2 for number in range(n) if number != broken}


def test_interrupted_by_the_user_and_started_in_other_ways(tmp_path: Path) -> None:
    words = ["number=0,1", "slow=1", "hydra.launcher.n_jobs=1", "hydra.launcher.devices=[]"]
    sweep = start(tmp_path, *words)
    wait_until(lambda: any(number == 1 for _, number, *_ in marks(tmp_path)) or sweep.poll() is not None, "job 1")
    second = start(tmp_path, *words)
    output = second.communicate(timeout=120)[0]
    assert second.returncode == 1
    assert f"A sweep is going on in {tmp_path / 'sweep'}." in output
    assert "Traceback" not in output
    sweep.send_signal(signal.SIGINT)
    output = sweep.communicate(timeout=120)[0]
    assert sweep.returncode == 130, output
    assert f"scripts/sweep.py continue={tmp_path / 'sweep'}" in output
    assert statuses(tmp_path / "sweep")[0] == "done"
    changed = start(tmp_path, *words, "broken=7")
    output = changed.communicate(timeout=120)[0]
    assert changed.returncode == 1
    assert f"{tmp_path / 'sweep' / '0'} holds a run of another configuration:\n  broken: -1 -> 7" in output
    assert "Traceback" not in output
    assert statuses(tmp_path / "sweep")[0] == "done", "what was there is as it was"


def test_what_a_user_reads(tmp_path: Path) -> None:
    output = start(tmp_path, "number=0", "hydra.launcher.devices=[x]", "hydra.launcher.jobs_per_gpu=0.5").communicate()[
        0
    ]
    assert "gives each job 2 GPUs, and this machine offers 1: x" in output
    assert "Traceback" not in output
