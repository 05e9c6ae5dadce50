"""The progress file of a run: where it is, for `sweep.py status=DIR`."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from layerprobe.files.atomic import write_bytes

FILE = "progress.json"


class ProgressFile:
    """Writes where a run is, at most every few seconds; what cannot be written is passed over."""

    def __init__(self, directory: str | Path, every_n_seconds: float = 5.0) -> None:
        self._file = Path(directory) / FILE
        self._every = every_n_seconds
        self._written = -every_n_seconds

    def write(self, *, at_once: bool = False, **where: Any) -> None:
        """Write it, if it is time to.

        Args:
            at_once: Whether it is time whenever the last writing was, as where the run is about to stop.
            where: Plain values, such as epoch, step, checkpoint and layer.
        """
        now = time.monotonic()
        if not at_once and now - self._written < self._every:
            return
        self._written = now
        with suppress(OSError):
            write_bytes(self._file, json.dumps(where | {"time": time.time()}).encode(), durable=False)


def read_progress(directory: Path) -> dict[str, Any]:
    """Read where a run is, or was; empty where nothing was written."""
    try:
        return dict(json.loads((directory / FILE).read_text()))
    except (OSError, ValueError):
        return {}
