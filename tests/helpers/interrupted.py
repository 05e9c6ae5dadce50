"""A solver that is stopped once, as by Ctrl-C."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Solution


def planning() -> bool:
    """Whether a fit is one of those that a plan foretells others from."""
    return any(Path(frame.filename).name == "pilot.py" for frame in inspect.stack(0))


class StopsOnce(Ridge):
    """Stops at the fourth fit where there is no file `stopped`, and leaves that file; the fits of a plan are none."""

    fits = 0

    def solve(self, *args: Any, **kwargs: Any) -> Solution:
        if planning():
            return super().solve(*args, **kwargs)
        StopsOnce.fits += 1
        if StopsOnce.fits == 4 and not Path("stopped").exists():
            Path("stopped").touch()
            raise KeyboardInterrupt
        return super().solve(*args, **kwargs)
