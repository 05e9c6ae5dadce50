"""Locks between processes, with the file system's own locks and without."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from layerprobe.files.lock import HeldError, is_held, lock
from layerprobe.results.run_directory import RunDirectory, RunDirectoryError
from layerprobe.results.sweep_record import SweepRecord


def refuse(descriptor: int, kind: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def hold_and_die(path: Path) -> None:
    held = lock(path)
    held.__enter__()
    os._exit(0)


@pytest.mark.parametrize("locks", [True, False])
def test_one_process_at_a_time_and_the_next_after_a_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    if not locks:
        monkeypatch.setattr(fcntl, "flock", refuse)
    file = tmp_path / "run.lock"
    assert not is_held(file)
    with lock(file):
        assert is_held(file)
        with pytest.raises(HeldError, match=f"process {os.getpid()} on "), lock(file):
            pass
        assert is_held(file), "a second that is refused takes nothing away"
    assert not is_held(file)
    process = multiprocessing.get_context("fork").Process(target=hold_and_die, args=(file,))
    process.start()
    process.join()
    assert not is_held(file)
    with lock(file):
        assert is_held(file)
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


def test_an_owner_of_another_machine_is_dead_after_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse)
    file, owner = tmp_path / "run.lock", tmp_path / "run.lock.owner"
    owner.write_text("process 1 on elsewhere\n")
    with pytest.raises(HeldError, match="process 1 on elsewhere"), lock(file):
        pass
    os.utime(owner, (time.time() - 90,) * 2)
    with lock(file):
        assert "elsewhere" not in owner.read_text()


def test_run_directories_and_sweeps_are_claimed_without_locks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse)
    run, sweep = RunDirectory(tmp_path), SweepRecord(tmp_path)
    with run.claimed(), sweep.claimed() as free:
        assert free
        assert run.is_busy()
        with pytest.raises(RunDirectoryError, match="Another process is at work"), run.claimed():
            pass
        with sweep.claimed() as second:
            assert not second
    assert not run.is_busy()
