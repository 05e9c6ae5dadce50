"""Errors about files: what is wrong with one, and how to move it out of the way."""

from __future__ import annotations

import shlex
from pathlib import Path


class UnusableFileError(ValueError):
    """A file that cannot be read or gone on from; the message ends with the next step."""


class DamagedFileError(UnusableFileError):
    """A file that holds something else than it should.

    Args:
        path: The file.
        problem: What was wanted and what was found.
        next_step: What to do, where moving the file away is not all.
    """

    def __init__(self, path: Path, problem: str, next_step: str = "") -> None:
        super().__init__(f"{path} is damaged ({problem}).{f' {next_step}' if next_step else ''}")
        self.path = path


def aside(path: Path) -> str:
    """Return the command that moves a file out of the way, for a message."""
    return shlex.join(["mv", "--", str(path), f"{path}.damaged"])
