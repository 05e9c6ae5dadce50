"""State files, which a run cannot do without: each is written twice, so that a damaged one is read from its copy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from layerprobe.files.atomic import write_bytes
from layerprobe.files.errors import DamagedFileError

COPIES = ".copies"
"""The folder beside the files that holds the second copies."""

Content = TypeVar("Content")

log = logging.getLogger("layerprobe")


def write_state(path: Path, content: bytes) -> None:
    """Write a file and its copy, each atomically.

    Raises:
        OSError: If it cannot be written.
    """
    write_bytes(_copy(path), content)
    write_bytes(path, content)


def read_state(path: Path, parse: Callable[[bytes], Content]) -> Content:
    """Read a file, or its copy where the file is damaged.

    Args:
        path: A file that `write_state` wrote.
        parse: Makes of the bytes what they stand for; any `ValueError`, `TypeError`, `KeyError` or `AttributeError`
            says that they are damaged.

    Raises:
        FileNotFoundError: Where there is no such file, with a copy or without.
        DamagedFileError: Where the file and its copy are damaged.
    """
    content = path.read_bytes()
    try:
        return parse(content)
    except _WRONG as error:
        problem = f"{len(content)} bytes, {type(error).__name__}: {error}" if content else "it is empty"
    try:
        return parse(_copy(path).read_bytes())
    except (OSError, *_WRONG):
        raise DamagedFileError(path, problem.splitlines()[0]) from None


def restore_state(path: Path, parse: Callable[[bytes], object]) -> None:
    """Write a damaged file anew from its copy, and say so; leave it where there is none, or the copy is damaged too."""
    try:
        parse(path.read_bytes())
        return
    except FileNotFoundError:
        return
    except _WRONG:
        pass
    try:
        content = _copy(path).read_bytes()
        parse(content)
    except (OSError, *_WRONG):
        return
    write_bytes(path, content)
    log.warning("%s was damaged; it has been restored from its copy.", path)


def remove_state(path: Path) -> None:
    """Remove a file and its copy."""
    path.unlink(missing_ok=True)
    _copy(path).unlink(missing_ok=True)


_WRONG = (ValueError, TypeError, KeyError, AttributeError)


def _copy(path: Path) -> Path:
    return path.parent / COPIES / path.name
