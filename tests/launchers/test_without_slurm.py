"""What a user reads who asks for a cluster where there is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("submitit")

from helpers import forked
from hydra_plugins.layerprobe_launchers.slurm import SlurmLauncher

APP = Path(__file__).with_name("app.py")


@pytest.mark.parametrize("launcher", ["slurm_cpu", "slurm_gpu"])
def test_a_machine_without_sbatch_is_told_once_and_nothing_is_left(launcher: str, tmp_path: Path) -> None:
    arguments = [
        sys.executable, str(APP), "-m", f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep", "number=0,1",
        f"hydra.searchpath=[file://{APP.parents[2] / 'conf'}]", f"marks={tmp_path / 'marks'}",
    ]  # fmt: skip
    environment = os.environ | {"PATH": str(tmp_path)}
    done = forked.run(arguments, cwd=tmp_path, env=environment)
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert "sbatch is not on this machine" in output
    assert "login node" in output
    assert "hydra/launcher=gpu_box" in output
    assert "Traceback" not in output
    assert not (tmp_path / "marks").exists()


@pytest.mark.parametrize(
    ("minutes", "delay", "refused"), [(1, 120, True), (3, 120, True), (4, 120, False), (2, 30, False)]
)
def test_a_warning_that_comes_as_the_job_starts_is_refused(
    minutes: int, delay: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    launcher = SlurmLauncher("logs", timeout_min=minutes, signal_delay_s=delay)
    with pytest.raises(SystemExit, match="timeout_min=4 or more" if refused else "sbatch is not on this machine"):
        launcher.launch([["number=0"]], 0)
