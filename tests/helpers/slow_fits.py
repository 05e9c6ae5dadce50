"""A solver that takes its time and writes down every fit."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from helpers.interrupted import planning
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Solution

WORDS = (
    "solver.logistic._target_=helpers.slow_fits.SlowRidge",
    "~solver.logistic.max_iterations",
    "~solver.logistic.memory",
)
"""Put it in the place of the logistic solver."""


class SlowRidge(Ridge):
    """Takes its time for each fit, and adds a line to a file of its SLURM job, or `fits`.

    The fourth waits for a file `go`.
    """

    fits = 0

    def solve(self, *args: Any, **kwargs: Any) -> Solution:
        if planning():
            return super().solve(*args, **kwargs)
        time.sleep(0.4)
        SlowRidge.fits += 1
        while SlowRidge.fits == 4 and not Path("go").exists():
            time.sleep(0.05)
        with open(f"fits{os.environ.get('SLURM_ARRAY_TASK_ID', '')}", "a") as file:
            file.write("fit\n")
        return super().solve(*args, **kwargs)


def fits(folder: Path, task: str = "") -> int:
    """How many fits were made."""
    file = folder / f"fits{task}"
    return len(file.read_text().split()) if file.exists() else 0
