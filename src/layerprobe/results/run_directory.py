"""A run's directory: one process at a time, one configuration, and whether the run in it has ended.

run.json       how the run ended; absent while it goes on, or where it was killed
config.json    the resolved configuration that the results belong to
run_id         the run's id in the dashboard, the same however often the run goes on
progress.json  where the run is
last.ckpt      what an unfinished run goes on from
previous/      what was there before a `rerun`
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from layerprobe.files.atomic import remove_stray
from layerprobe.files.errors import DamagedFileError, aside
from layerprobe.files.lock import HeldError, is_held, lock
from layerprobe.files.state_files import COPIES, read_state, remove_state, restore_state, write_state
from layerprobe.formatting import listed
from layerprobe.results.config_identity import differing, identity
from layerprobe.results.run_summary import FILE, RunSummary

log = logging.getLogger("layerprobe")

Rerun = Literal["failed", "all"] | None
"""Which runs start from the beginning: failed ones, all; by default none, and finished ones are left alone."""

_LOCK, _CONFIG, _ID, _PREVIOUS = "run.lock", "config.json", "run_id", "previous"


class RunDirectoryError(RuntimeError):
    """The run cannot go on in this directory; the message ends with the next step."""


class RunDirectory:
    """The directory of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def summary(self) -> RunSummary | None:
        """How the run ended; None where it has not."""
        return RunSummary.read(self.path)

    @property
    def checkpoint(self) -> Path:
        """What an unfinished run goes on from; it need not exist."""
        return self.path / "last.ckpt"

    @property
    def has_id(self) -> bool:
        """Whether the run has been given an id before."""
        return (self.path / _ID).exists()

    @property
    def id(self) -> str:
        """The run's id in the dashboard: that of a sweep's agent, else made up when it is first asked for."""
        file = self.path / _ID
        if file.exists():
            with suppress(DamagedFileError):
                return read_state(file, _parse_id)
        made = self._id_of_logs() or _id_of_agent() or secrets.token_hex(4)
        write_state(file, made.encode())
        return made

    def _id_of_logs(self) -> str | None:
        """Find the id that the logs of earlier starts are named by, where there are any.

        A log is `wandb/[offline-]run-<date>-<id>/run-<id>.wandb`; its folder ends in -1 where a start was within the
        same second as the one before. A file that is half written is not enough to tell; one that is not there is a
        run that has never had an id.
        """
        if not self.has_id:
            return None
        logs = self.path.glob("wandb/*run-*-*/run-*.wandb")
        last = max(logs, key=lambda log: log.parent.name.split("run-", 1)[1], default=None)
        return last.stem.removeprefix("run-") if last else None

    def restore(self) -> None:
        """Clear what killed processes left half-written, and write damaged small files anew from their copies.

        Call it where the directory is claimed.
        """
        remove_stray(self.path)
        restore_state(self.path / FILE, RunSummary.parse)
        restore_state(self.path / _ID, _parse_id)
        restore_state(self.path / _CONFIG, _parse_config)
        summary = self.summary
        if summary is not None and summary.status == "unreadable":
            log.warning("%s How the run ended is not known; it goes on, and no layer is probed again.", summary.error)

    def is_busy(self) -> bool:
        """Tell whether a process is at work in the directory."""
        return is_held(self.path / _LOCK)

    def finished(self, config: Mapping[str, Any]) -> RunSummary | None:
        """Return the summary of a run that is done, under the same configuration, with its results in place.

        Returns:
            The summary; None where there is something left to do.
        """
        summary = self.summary
        if summary is None or summary.status != "done" or self.differences(config):
            return None
        probed = "probe/best_layer_test_error" in summary.metrics
        return None if probed and not (self.path / "probes" / "results.parquet").exists() else summary

    def differences(self, config: Mapping[str, Any]) -> list[str]:
        """List `key: old -> new` for each value that differs from what the directory's results belong to.

        Raises:
            RunDirectoryError: Where `config.json` and its copy are damaged.
        """
        try:
            old = read_state(self.path / _CONFIG, _parse_config)
        except FileNotFoundError:
            return []
        except DamagedFileError as error:
            raise RunDirectoryError(
                f"{error} It says which configuration the results belong to; they are intact. If this command is the "
                f"one that the run was started with, it goes on once the file is moved away ({aside(error.path)}); "
                "rerun=all starts over."
            ) from error
        found = differing(identity(old), identity(config, self.path))
        return [f"{key}: {before} -> {now}" for key, (before, now) in found.items()]

    def begin(self, config: Mapping[str, Any], rerun: Rerun = None) -> None:
        """Say what the directory's results belong to; set aside what is to be done again.

        Raises:
            RunDirectoryError: Where the directory holds a run of another configuration.
        """
        summary = self.summary
        if rerun == "all" or (rerun == "failed" and summary is not None and summary.status == "failed"):
            self._setaside()
        elif differing := self.differences(config):
            shown = listed(differing, 5, "\n  ")
            raise RunDirectoryError(
                f"{self.path} holds a run of another configuration:\n  {shown}\n"
                "Give another directory (hydra.run.dir=DIR, hydra.sweep.dir=DIR) or the old values; or start over here "
                f"with rerun=all, which moves what is there to {_PREVIOUS}/."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        remove_state(self.path / FILE)
        write_state(self.path / _CONFIG, json.dumps(identity(config, self.path), indent=2).encode())

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes out of the directory.

        Raises:
            RunDirectoryError: Where another process is at work in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                held.enter_context(lock(self.path / _LOCK))
            except HeldError as error:
                raise RunDirectoryError(
                    f"Another process is at work in {self.path} ({error}). "
                    "Wait for it, or give another directory: hydra.run.dir=DIR, hydra.sweep.dir=DIR."
                ) from error
            self.restore()
            yield

    def _setaside(self) -> None:
        """Move everything but the logs, which the run that begins has opened, to a folder of its own."""
        entries = [entry for entry in self.path.glob("*") if not entry.name.startswith((_LOCK, _PREVIOUS, "."))]
        entries = [entry for entry in entries if entry.suffix != ".log"]
        entries += list(self.path.glob(COPIES))
        if not entries:
            return
        target = self.path / _PREVIOUS / str(len(list((self.path / _PREVIOUS).glob("*"))))
        target.mkdir(parents=True)
        for entry in entries:
            entry.rename(target / entry.name)


def _id_of_agent() -> str | None:
    """Return the id that an agent of a W&B sweep has given to the run that it starts, waiting for a run of that id."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def _parse_id(content: bytes) -> str:
    text = content.decode().strip()
    if not re.fullmatch(r"[\w-]{8,128}", text, re.ASCII):
        raise ValueError(f"{text[:20]!r} is no id")
    return text


def _parse_config(content: bytes) -> dict[str, Any]:
    return dict(json.loads(content).items())
