"""The program that runs the scripts: `layerprobe train` of an installed package, `uv run scripts/train.py` of a clone.

An installed package carries `conf/` and `scripts/` inside; in a clone they are at the top.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

CALLED = "LAYERPROBE_CALLED"
"""The variable with the words that the console command was called by; jobs that it starts have it too."""

_PACKAGE = Path(__file__).resolve().parent
INSTALLED = (_PACKAGE / "conf").is_dir()
_HOME = _PACKAGE if INSTALLED else _PACKAGE.parents[1]
CONF, SCRIPTS = _HOME / "conf", _HOME / "scripts"


def console_command() -> str:
    """Return the words by which this process was called, where it is the console command's."""
    module = ["python", "-m", "layerprobe"] if sys.argv[0].endswith("__main__.py") else ["layerprobe"]
    return " ".join(["uv", "run", *module] if "UV_RUN_RECURSION_DEPTH" in os.environ else module)


def words(script: str) -> list[str]:
    """Return the words that start a script, for a shell, as the user has called this one."""
    called = os.environ.get(CALLED) or ("layerprobe" if INSTALLED else "")
    return [*called.split(), script] if called else ["uv", "run", f"scripts/{script}.py"]


def name(script: str | None = None) -> str:
    """Return what a script is called in its own messages: `layerprobe train`, or `train.py`."""
    script = script or Path(sys.argv[0]).stem
    return f"layerprobe {script}" if INSTALLED or CALLED in os.environ else f"{script}.py"


def say(*lines: str) -> None:
    """Print lines as they are, whatever they hold, and however long they are."""
    from rich.console import Console

    Console().print(*lines, sep="\n", highlight=False, soft_wrap=True, markup=False)


def to_install(extra: str) -> str:
    """Return the command that installs an optional dependency."""
    return f"pip install 'layerprobe[{extra}]'" if INSTALLED else f"uv sync --extra {extra}"
