"""Atomic writing: a file is either whole or absent, whenever the process is killed."""

from __future__ import annotations

import errno
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SUFFIX = ".tmp"
_STRAY = re.compile(r"\..+\.([0-9a-f]{4}|[0-9a-f]{8}|\d+)\.tmp")
"""Names of `atomic`, and of locks and earlier versions, whose number is that of their process."""


@contextmanager
def atomic(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Write to a temporary file beside `path`, which takes its place when the block ends without an error.

    Args:
        path: The file to write or to replace; missing folders are made.
        durable: Whether to wait until the content is on the disk, so that it survives a loss of power too.

    Yields:
        The temporary file's path: hidden, and ending in `.tmp`, so that no reader's pattern matches it.

    Raises:
        OSError: If the folder or the file cannot be written; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}"
    try:
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def check_writable(path: Path) -> None:
    """Find out, before the work for it, whether a file can be written; nothing is left behind.

    Raises:
        OSError: If the file is a folder, or nothing can be written where its folder is or would be made.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` atomically.

    Raises:
        OSError: If it cannot be written; `path` is then as it was.
    """
    with atomic(path, durable=durable) as temporary:
        temporary.write_bytes(data)


def remove_stray(directory: Path, *, age: float = 0.0) -> None:
    """Remove the temporary files that killed processes left in a folder and below it.

    Call it where no other process writes there, or with an age that no file is written for so long. A folder below
    that is a run's own (with a `run.lock`) is left alone.

    Args:
        directory: The folder; it may be missing.
        age: Seconds since they were last written to, at least.
    """
    for folder, inner, files in os.walk(directory):
        inner[:] = [name for name in inner if not os.path.exists(os.path.join(folder, name, "run.lock"))]
        for name in filter(_STRAY.fullmatch, files):
            with suppress(FileNotFoundError):
                path = os.path.join(folder, name)
                if not age or os.stat(path).st_mtime < time.time() - age:
                    os.unlink(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
