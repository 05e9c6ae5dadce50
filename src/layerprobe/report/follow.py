"""Following runs: a report is made again when their files have changed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from layerprobe.results.reader import find_runs


def follow(roots: Sequence[str | Path], interval: float) -> Iterator[None]:
    """Come back at once, and then each time that runs have gone on, looking every `interval` seconds.

    The state is taken before the caller looks at the runs, so that what is written while it looks is a change too.

    Yields:
        Nothing; the caller's turn to look at the runs.
    """
    while True:
        seen = file_states(roots)
        yield
        while file_states(roots) == seen:
            time.sleep(interval)


def file_states(roots: Sequence[str | Path]) -> dict[Path, tuple[int, int]]:
    """Look at when the results of runs were last written.

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
