"""The scripts, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(
    script: str, *overrides: str, cwd: Path, check: bool = True, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder, without what the environment says about Weights & Biases; `path` is one of modules."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *overrides],
        cwd=cwd,
        env=environment | {"HOME": str(cwd), "COLUMNS": "160", "PYTHONPATH": str(path or "")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result
