"""Places for jobs on pretended GPUs: never two jobs on one, all used, free again after a crash."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hydra_plugins.layerprobe_launchers.slots import Slot, Taken, gpu_slots, take


def job(taken: Taken, code: str = "import sys; sys.stdin.read()") -> subprocess.Popen[bytes]:
    """A process that holds a place until its standard input is closed, or it is killed."""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, pass_fds=taken.locks)
    taken.hand_over()
    return process


@pytest.mark.parametrize(
    ("n_gpus", "jobs_per_gpu", "expected"),
    [
        (2, 1, [("0",), ("1",)]),
        (2, 2, [("0",), ("1",), ("0",), ("1",)]),
        (4, 0.5, [("0", "1"), ("2", "3")]),
        (3, 0.5, [("0", "1")]),
        (4, 0.25, [("0", "1", "2", "3")]),
    ],
)
def test_places(n_gpus: int, jobs_per_gpu: float, expected: list[tuple[str, ...]]) -> None:
    slots = gpu_slots([str(i) for i in range(n_gpus)], jobs_per_gpu)
    assert [slot.devices for slot in slots] == expected
    assert len(set(slots)) == len(slots)


@pytest.mark.parametrize(("n_gpus", "jobs_per_gpu"), [(2, 0.25), (0, 0.5), (2, 0), (2, -1)])
def test_more_gpus_than_there_are(n_gpus: int, jobs_per_gpu: float) -> None:
    with pytest.raises(ValueError, match="this machine offers"):
        gpu_slots([str(i) for i in range(n_gpus)], jobs_per_gpu)


def test_two_launchers_share_the_machine(tmp_path: Path) -> None:
    """Each knows its own jobs only; the locks tell it about the others'."""
    slots = gpu_slots(["a", "b"], 1)
    first, second = take(slots, [], tmp_path), take(slots, [], tmp_path)
    assert first is not None
    assert second is not None
    assert {first.slot.devices, second.slot.devices} == {("a",), ("b",)}
    jobs = [job(first), job(second)]
    assert take(slots, [], tmp_path) is None
    jobs[0].kill()
    jobs[0].communicate()
    third = take(slots, [], tmp_path)
    assert third is not None
    assert third.slot == first.slot, "a killed job's GPU is not free"
    third.hand_over()
    jobs[1].communicate()


def test_a_job_of_several_gpus_excludes_those_of_one(tmp_path: Path) -> None:
    wide = take(gpu_slots(["a", "b"], 0.5), [], tmp_path)
    assert wide is not None
    process = job(wide)
    assert take(gpu_slots(["a", "b"], 1), [], tmp_path) is None
    process.communicate()
    assert take(gpu_slots(["a", "b"], 1), [], tmp_path) is not None


def test_a_failed_attempt_leaves_nothing_locked(tmp_path: Path) -> None:
    one = take([Slot(("b",), 0)], [], tmp_path)
    assert one is not None
    process = job(one)
    assert take(gpu_slots(["a", "b"], 0.5), [], tmp_path) is None
    assert take([Slot(("a",), 0)], [], tmp_path) is not None
    process.communicate()


def test_own_jobs_are_counted_where_there_are_no_locks(tmp_path: Path) -> None:
    slots = [Slot((), 0), Slot((), 1)]
    taken = take(slots, [slots[0]], tmp_path)
    assert taken is not None
    assert taken.slot == slots[1]
    assert take(slots, slots, tmp_path) is None


def test_a_file_system_without_locks_has_places_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    slots = gpu_slots(["0", "1"], 1)
    first = take(slots, [], tmp_path)
    assert first is not None
    second = take(slots, [first.slot], tmp_path)
    assert second is not None and second.slot != first.slot
    assert "lock_dir" in caplog.text
    for taken in (first, second):
        taken.hand_over()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes two users")
@pytest.mark.parametrize("mode", [0o666, 0o644])
def test_the_lock_of_another_user_is_seen_in_a_folder_of_all(mode: int) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o1777)
    file = folder / "layerprobe-gpu-0-0.lock"
    file.touch()
    file.chmod(mode)
    slots = gpu_slots(["0"], 1)
    try:
        results = []
        for held in (False, True):
            taken = take(slots, [], folder) if held else None
            child = os.fork()
            if child == 0:
                os.setgid(12345)
                os.setuid(12345)
                os._exit(0 if (take(slots, [], folder) is None) == held else 1)
            results.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            if taken:
                taken.hand_over()
        assert results == [0, 0]
    finally:
        shutil.rmtree(folder)
