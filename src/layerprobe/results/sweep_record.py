"""The record of a sweep: the command that started it and the jobs that it sent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerprobe.files.lock import HeldError, lock
from layerprobe.files.state_files import COPIES, read_state, write_state

FILE, _LOCK = "sweep.json", "sweep.lock"


@dataclass
class SweepRecord:
    """A sweep.

    The file holds what lies in the sweep's directory relative to it, so that the directory can be moved. The jobs have
    by number their `overrides`, their `directory` and, on SLURM, their `slurm_job`.
    """

    directory: Path
    command: Sequence[str] = ()
    cwd: str = "."
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: str | Path) -> SweepRecord:
        """Read a sweep's record.

        Raises:
            FileNotFoundError: Where there is none.
            DamagedFileError: Where it is damaged, and its copy too.
        """
        directory = Path(directory)
        if not (directory / FILE).exists():
            raise FileNotFoundError(
                f"{directory} is not the directory of a sweep: there is no {FILE} in it. "
                "Give the directory that the sweep printed, such as multirun/NAME/DATE."
            )
        content = read_state(directory / FILE, _parse)
        before, command = content.get("directory", ""), []
        for word in content["command"]:
            if word.startswith("hydra.sweep.dir="):  # as earlier versions wrote it
                before = before or word.partition("=")[2]
            else:
                command.append(word)
        jobs = content["jobs"]
        for job in jobs.values():
            inside = os.path.relpath(job["directory"], before) if before else job["directory"]
            if not inside.startswith(".."):
                job["directory"] = os.path.normpath(directory / inside)
        cwd = content["cwd"]
        if not os.path.isdir(cwd) and "cwd_from_here" in content:
            cwd = os.path.normpath(directory / content["cwd_from_here"])
        return cls(directory, command, cwd, jobs)

    def begin(self, command: Sequence[str]) -> None:
        """Write down how the sweep is started."""
        words = [word for word in command[1:] if not word.lstrip("+").startswith(("hydra.sweep.dir=", "rerun="))]
        self.command, self.cwd = [os.path.abspath(command[0]), *words], os.getcwd()
        self.write()

    def write(self) -> None:
        """Write the record, atomically."""
        content = {
            "directory": str(self.directory),
            "command": list(self.command),
            "cwd": self.cwd,
            "cwd_from_here": os.path.relpath(self.cwd, self.directory),
            "jobs": self.jobs,
        }
        write_state(self.directory / FILE, json.dumps(content, indent=1).encode())

    def add(self, jobs: Mapping[str, dict[str, Any]]) -> None:
        """Add jobs, or what is new about them, and write."""
        for number, what in jobs.items():
            self.jobs[number] = self.jobs.get(number, {}) | what
        self.write()

    def folders(self) -> list[Path]:
        """List the directories of the sweep's jobs, those with a `run.json` included that no launcher wrote down."""
        known = [Path(job["directory"]) for _, job in sorted(self.jobs.items(), key=lambda item: int(item[0]))]
        found: list[Path] = []
        for file in sorted(self.directory.glob("**/run.json"), key=lambda path: (len(path.parts), str(path))):
            if COPIES not in file.parts and not set(file.parents) & {
                *known,
                *found,
            }:  # but not what a run has set aside
                found.append(file.parent)
        return known + sorted(found, key=lambda path: (len(path.name), path.name))

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Keep other launchers out of the sweep; yields whether that worked."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                held.enter_context(lock(self.directory / _LOCK))
            except HeldError:
                yield False
                return
            yield True


def _parse(content: bytes) -> dict[str, Any]:
    parsed = json.loads(content)
    return {key: parsed[key] for key in ("command", "cwd", "jobs")} | dict(parsed)
