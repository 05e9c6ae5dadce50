"""Places for jobs on one machine: a share of its GPUs each, or of its CPUs."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """A place for one job, by its number on the GPUs that it may use; none where it runs on CPUs."""

    devices: tuple[str, ...]
    index: int


@dataclass(frozen=True)
class Taken:
    """A place that a job holds.

    Attributes:
        slot: The place.
        locks: Open files whose locks say so to every process of this machine. The job inherits them, so that the place
            is free as soon as the job is gone, whatever becomes of the launcher.
    """

    slot: Slot
    locks: tuple[int, ...]

    def hand_over(self) -> None:
        """Keep the locks in the job alone."""
        for lock in self.locks:
            os.close(lock)


def gpu_slots(devices: Sequence[str], jobs_per_gpu: float) -> list[Slot]:
    """Divide GPUs among jobs.

    Args:
        devices: Names of the GPUs.
        jobs_per_gpu: Jobs at a time on one GPU; a fraction 1/g gives each job g GPUs.

    Returns:
        The places, first on each GPU first.

    Raises:
        ValueError: Where a job would need more GPUs than there are.
    """
    if jobs_per_gpu >= 1:
        return [Slot((device,), index) for index in range(int(jobs_per_gpu)) for device in devices]
    size = round(1 / jobs_per_gpu) if jobs_per_gpu > 0 else 0
    if not 1 <= size <= len(devices):
        raise ValueError(
            f"hydra.launcher.jobs_per_gpu={jobs_per_gpu} gives each job {size} GPUs, and this machine offers "
            f"{len(devices)}: {', '.join(devices) or 'none'}. Give 1/{max(len(devices), 1)} or more."
        )
    groups = [tuple(devices[i : i + size]) for i in range(0, len(devices) - size + 1, size)]
    return [Slot(group, 0) for group in groups]


def take(slots: Sequence[Slot], busy: Sequence[Slot], folder: Path | None = None) -> Taken | None:
    """Take the first free place; None where none is free.

    Args:
        slots: All places.
        busy: Those that this launcher's own jobs hold.
        folder: Where the locks of the GPUs are; by default the machine's folder for temporary files, so that all sweeps
            on it, of all users, see them.
    """
    for slot in slots:
        if slot not in busy:
            locks = _locked(slot, folder or Path(tempfile.gettempdir()))
            if locks is not None:
                return Taken(slot, locks)
    return None


def _locked(slot: Slot, folder: Path) -> tuple[int, ...] | None:
    locks: list[int] = []
    for device in slot.devices:
        path = folder / f"layerprobe-gpu-{device.replace('/', '_')}-{slot.index}.lock"
        lock = _opened(path)
        locks.append(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                for opened in locks:
                    os.close(opened)
                return None
            _warn_without_locks(folder)
    return tuple(locks)


def _opened(path: Path) -> int:
    """Open a lock's file, of whichever user.

    In a folder for all users (`/tmp`) Linux refuses `O_CREAT` for a file of somebody else (`fs.protected_regular`), so
    that it is made only where it is not there; and to lock a file it need not be writable.
    """
    refused: OSError | None = None
    for flags in (os.O_RDWR, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_RDWR, os.O_RDONLY):
        mask = os.umask(0)
        try:
            return os.open(path, flags, 0o666)
        except OSError as error:
            refused = error
        finally:
            os.umask(mask)
    raise SystemExit(
        f"The lock {path} of a GPU cannot be opened: {refused}. Have its owner remove it, or agree on another folder "
        "with the others who use this machine's GPUs: hydra.launcher.lock_dir=DIR."
    )


@cache
def _warn_without_locks(folder: Path) -> None:
    log.warning(
        "%s has no file locks: sweeps beside one another do not see which GPUs are taken. "
        "A folder that has them: hydra.launcher.lock_dir=DIR",
        folder,
    )
