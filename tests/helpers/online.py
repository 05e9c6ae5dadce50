"""Training with Weights & Biases on: small networks, and a server on this machine or none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import forked, wandb_log
from helpers.wandb_server import StoredRun, WandbServer, serving

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["experiment=xor_mlp", "data.repeats=30", "callbacks=probe", "probe.l2=[1e-3]"]


def command(*overrides: str, flags: tuple[str, ...] = ()) -> list[str]:
    """A training of a second; flags come before the overrides."""
    return [sys.executable, str(ROOT / "scripts" / "train.py"), *flags, *QUICK, *overrides]


def environment(cwd: Path, server: WandbServer | None = None) -> dict[str, str]:
    """Nothing about wandb but the server."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return clean | {"HOME": str(cwd)} | (server.environment if server else {})


def run(arguments: list[str], cwd: Path, server: WandbServer | None) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    return forked.run(arguments, cwd=cwd, env=environment(cwd, server), timeout=400)


def train(cwd: Path, server: WandbServer | None, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Train in the folder `run`."""
    return run(command("hydra.run.dir=run", *overrides), cwd, server)


def start(cwd: Path, server: WandbServer | None, *overrides: str) -> forked.Running:
    """Begin to train in the folder `run`."""
    return forked.start(command("hydra.run.dir=run", *overrides), cwd=cwd, env=environment(cwd, server))


def agree(logged: StoredRun | wandb_log.Logged, probes: Path) -> None:
    """Each checkpoint's curve is logged as the Parquet has it, and once."""
    results = pd.read_parquet(probes / "results.parquet")
    for name, rows in results.groupby("checkpoint"):
        expected = list(zip(rows["depth"], rows["test_error"], strict=True))
        assert logged.rows("probe/depth", f"probe/test_error/{name}") == expected


def log_of(cwd: Path, name: str = "*run-*") -> Path:
    """The only log of wandb with such a name in the folder `run`."""
    (log,) = [path for path in (cwd / "run" / "wandb").glob(name) if path.is_dir() and not path.is_symlink()]
    return log


def synced(cwd: Path, **about: Any) -> StoredRun:
    """What a server has after `wandb sync` of the log in the folder `run`."""
    with serving(**about) as server:
        sync = [str(Path(sys.executable).with_name("wandb")), "sync", "--include-online", str(log_of(cwd))]
        done = subprocess.run(sync, cwd=cwd, env=environment(cwd, server), capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        (stored,) = server.stored.runs.values()
        return stored
