"""Sees whether runs have gone on since a report was made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from layerprobe.results.run import find_runs


def state_of(roots: Iterable[str | Path]) -> dict[Path, tuple[int, int]]:
    """Look at when the results of runs were last written.

    Args:
        roots: As for `find_runs`.

    Returns:
        Time in nanoseconds and size of each run's `results.parquet` and `run.json`; equal states need no new report.
    """
    files = [
        file
        for directory in find_runs(roots)
        for file in (directory / "probes" / "results.parquet", directory / "run.json", directory / ".hydra")
    ]
    found = {}
    for file in files:
        try:
            about = file.stat()
        except FileNotFoundError:
            continue
        found[file] = (about.st_mtime_ns, about.st_size)
    return found
