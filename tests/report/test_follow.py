"""Watching runs: nothing that they write while a report is made is missed."""

from __future__ import annotations

import threading
from pathlib import Path

from layerprobe.report.follow import follow
from layerprobe.results.run_summary import RunSummary


def test_what_is_written_while_the_caller_looks_is_a_change(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    looks = follow([tmp_path], interval=0.01)
    next(looks)
    RunSummary("done").write(tmp_path)  # after the caller's look, before the next wait
    next(looks)


def test_it_waits_while_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    looks = follow([tmp_path], interval=0.01)
    next(looks)
    thread = threading.Thread(target=next, args=(looks,), daemon=True)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    RunSummary("done").write(tmp_path)
    thread.join(30)
    assert not thread.is_alive()
