"""A sweep that Weights & Biases leads: its file as it stands, an agent, and the runs that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers.command import ROOT
from helpers.online import environment
from helpers.wandb_server import ENTITY, SWEEP, serving

FILE = ROOT / "docs" / "wandb_sweep.yaml"


@pytest.mark.slow
def test_an_agent_starts_the_runs_that_it_is_told_to(tmp_path: Path) -> None:
    """The parameters are the server's choice: here they are those of a training that takes a second."""
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    chosen = {"experiment": "xor_mlp", "optimizer.lr": 0.2, "seed": 3, "data.repeats": 30, "probe.l2": "[1e-3]"}
    wandb = str(Path(sys.executable).with_name("wandb"))
    with serving() as server:
        bin_first = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        about = environment(tmp_path, server) | {"PATH": bin_first, "OMP_NUM_THREADS": "1"}

        def does(*words: str) -> str:
            done = subprocess.run([wandb, *words], cwd=tmp_path, env=about, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout + done.stderr

        assert f"{ENTITY}/layerprobe/{SWEEP}" in does("sweep", "--entity", ENTITY, str(FILE))
        stored = yaml.safe_load(server.stored.sweep)
        assert stored == yaml.safe_load(FILE.read_text())
        args = {key: {"value": value} for key, value in chosen.items()}
        server.stored.commands = [{"type": "run", "run_id": "agentrun", "program": stored["program"], "args": args}]
        does("agent", "--count", "1", f"{ENTITY}/layerprobe/{SWEEP}")
        run = server.stored.runs["agentrun"]
    assert server.stored.unknown == []
    assert run.exit_code == 0 and run.config["seed"] == 3 and run.config["optimizer"]["lr"] == 0.2
    assert run.rows("probe/depth", "probe/test_error/final")
    assert [file.read_text() for file in tmp_path.glob("outputs/xor_mlp/*/run_id")] == ["agentrun"]
