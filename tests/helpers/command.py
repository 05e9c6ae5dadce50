"""The scripts, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers import forked

ROOT = Path(__file__).resolve().parents[2]


def run(
    script: str, *overrides: str, cwd: Path, check: bool = True, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder, without what the environment says about Weights & Biases; `path` is one of modules."""
    result = forked.run(_command(script, overrides), cwd=cwd, env=_environment(cwd, path))
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def start(script: str, *overrides: str, cwd: Path, path: Path | None = None) -> forked.Running:
    """Start a script as `run` does, and leave it going."""
    return forked.start(_command(script, overrides), cwd=cwd, env=_environment(cwd, path))


def call(script: str, *overrides: str, cwd: Path, path: Path | None = None) -> tuple[int, str]:
    """Run a script as `run` does; its exit code and what it prints on both streams."""
    result = run(script, *overrides, cwd=cwd, check=False, path=path)
    return result.returncode, result.stdout + result.stderr


def _command(script: str, overrides: Sequence[str]) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / script), *overrides]


def _environment(cwd: Path, path: Path | None) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return environment | {"HOME": str(cwd), "COLUMNS": "160", "PYTHONPATH": str(path or "")}
