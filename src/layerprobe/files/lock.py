"""Locks between processes: the system's own, or a file that is kept fresh where the file system has no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_REFRESH, _STALE = 10.0, 60.0
"""Seconds between two signs of life of an owner, and without one until it is taken for dead."""

_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)


class HeldError(RuntimeError):
    """Another process holds the lock; the message says which, as far as it is known."""


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock while the block runs. It is gone with this process, however that ends.

    `flock` where the file system has it. Elsewhere (`ENOLCK`, as on some network file systems) a file `.owner` beside
    `path`, which only one process can make and which its owner touches every ten seconds. The file of a process of this
    machine that is gone, or that has not been touched for a minute by the file system's own clock, is taken over. The
    file stays behind.

    Raises:
        HeldError: Where another process holds it.
        OSError: If the file cannot be made.
    """
    with open(path, "a+") as file:
        if not _flock(file.fileno(), fcntl.LOCK_EX):
            with _owned(path):
                yield
            return
        file.truncate(0)
        file.write(f"{_me()}\n")
        file.flush()
        yield


def is_held(path: Path) -> bool:
    """Tell whether a process holds a lock."""
    try:
        with open(path) as file:
            return not _flock(file.fileno(), fcntl.LOCK_SH) and _alive(_owner(path))
    except HeldError:
        return True
    except OSError:
        return False


def _flock(descriptor: int, kind: int) -> bool:
    """Take the lock, and tell whether that could be done; False where the file system has none."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _TAKEN:
            return False
        raise HeldError(os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown") from error
    return True


@contextmanager
def _owned(path: Path) -> Iterator[None]:
    owner, released = _owner(path), threading.Event()
    _make(owner)

    def refresh() -> None:
        while not released.wait(_REFRESH):
            with suppress(OSError):
                os.utime(owner)

    threading.Thread(target=refresh, daemon=True).start()
    try:
        yield
    finally:
        released.set()
        owner.unlink(missing_ok=True)


def _make(owner: Path) -> None:
    for _ in range(2):
        try:
            with open(owner, "x") as file:
                file.write(f"{_me()}\n")
            return
        except FileExistsError:
            if _alive(owner):
                break
            aside = owner.with_name(f".{owner.name}.{os.getpid()}.tmp")
            with suppress(FileNotFoundError):
                os.replace(owner, aside)  # of two processes that find it dead, one moves it
                aside.unlink()
    raise HeldError(_text(owner) or "unknown")


def _alive(owner: Path) -> bool:
    try:
        age = _now(owner.parent) - owner.stat().st_mtime
    except FileNotFoundError:
        return False
    words = _text(owner).split()
    if len(words) == 4 and words[3] == socket.gethostname() and words[1].isdigit():
        try:
            os.kill(int(words[1]), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
    return age < _STALE


def _now(folder: Path) -> float:
    """Read the time of the file system, whose clock may differ from this machine's."""
    file = folder / f".now.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        file.touch()
        return file.stat().st_mtime
    finally:
        file.unlink(missing_ok=True)


def _owner(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")


def _text(file: Path) -> str:
    with suppress(OSError):
        return file.read_text().strip()
    return ""


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
