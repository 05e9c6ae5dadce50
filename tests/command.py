"""The scripts, run as a user runs them."""

from __future__ import annotations

import io
import logging
import os
import runpy
import subprocess
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).resolve().parents[1]


def run(
    script: str, *overrides: str, cwd: Path, check: bool = True, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder, without what the environment says about Weights & Biases; `path` is one of modules."""
    result = subprocess.run(
        _command(script, overrides),
        cwd=cwd,
        env=_environment(cwd, path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def start(script: str, *overrides: str, cwd: Path, path: Path | None = None) -> subprocess.Popen[str]:
    """Start a script as `run` does, and leave it going; both streams are `stdout`."""
    return subprocess.Popen(
        _command(script, overrides),
        cwd=cwd,
        env=_environment(cwd, path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def call(script: str, *overrides: str, cwd: Path) -> tuple[int, str]:
    """Run a script in this process, which saves the seconds that its imports take; its exit code and what it prints.

    An error that leaves the script is shown as its traceback.
    """
    arguments, path, root = sys.argv, sys.path[:], logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    output, code = io.StringIO(), 0
    sys.argv = _command(script, overrides)[1:]
    with chdir(cwd), redirect_stdout(output), redirect_stderr(output), warnings.catch_warnings():
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code)
        except BaseException:
            code = 1
            traceback.print_exc()
        finally:
            GlobalHydra.instance().clear()
            for handler in set(root.handlers) - set(handlers):
                handler.close()
            root.handlers[:] = handlers
            root.setLevel(level)
            logging.raiseExceptions = raises
            sys.argv, sys.path[:] = arguments, path
    return code, output.getvalue()


def _command(script: str, overrides: Sequence[str]) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / script), *overrides]


def _environment(cwd: Path, path: Path | None) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return environment | {"HOME": str(cwd), "COLUMNS": "160", "PYTHONPATH": str(path or "")}
