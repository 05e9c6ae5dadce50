"""Signals that ask a run to stop: they are noted, and acted upon when nothing is half-done."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

WARNINGS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
"""SIGTERM: `scancel`, preemption, a machine that shuts down. SIGUSR2: what submitit has SLURM send before the time
limit. SIGINT: Ctrl-C."""


class StopSignals:
    """Notes which of `WARNINGS` has come; a second Ctrl-C interrupts at once, as ever."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Take over the signals; call it again where something else may have taken them."""
        for number in WARNINGS:
            current = signal.getsignal(number)
            if current != self._note:
                self._before.setdefault(number, current)
                signal.signal(number, self._note)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over the signals, and put them back afterwards."""
        before = {number: signal.getsignal(number) for number in WARNINGS}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def forget(self) -> None:
        """Forget who had the signals: the trainer has put them back."""
        self._before.clear()

    def stopped(self, number: int, where: str) -> Stopped:
        """Make what a run that obeys a signal leaves with; with several processes, the signal is the same for all."""
        return Stopped(number, self._before.get(signal.SIGUSR2), where)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.received = self.received or number


@contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """Make a `SystemExit` of a SIGTERM that nothing else handles: what is open is then closed, and logs are flushed."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not free or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Stopped(SystemExit):
    """A run that was asked to stop has saved what it had and leaves; the same command goes on from there.

    Args:
        number: The signal.
        handler: Whatever handled SIGUSR2 before; under submitit, what requeues the job.
        where: Where the run was stopped, and what it has saved.
    """

    def __init__(self, number: int, handler: Any, where: str) -> None:
        super().__init__(128 + number)
        self.signal = number
        self.where = where
        self._handler = handler

    def __str__(self) -> str:
        """Return the message."""
        return f"stopped by {signal.Signals(self.signal).name} {self.where}"

    def requeue(self) -> None:
        """Have the job queued again where it should be and SLURM has not decided yet; call it when all is written.

        A warning before the time limit, a preemption's grace time: the job is still running, and submitit's handler
        requeues it, at most `max_num_timeout` times after a time limit. After `scancel`, `scontrol requeue` and the
        like SLURM has decided already, and the state is no longer RUNNING.

        Raises:
            SystemExit: Where the job was requeued.
            submitit.core.utils.UncompletedJobError: Where it has timed out too many times.
        """
        if os.environ.get("SUBMITIT_EXECUTOR") != "slurm" or not callable(self._handler):
            return
        if int(os.environ.get("SLURM_PROCID", "0")) != 0:
            raise SystemExit(0)  # the first task requeues; one that fails earlier would end it
        if self.signal == signal.SIGUSR2 or _job_state() == "RUNNING":
            self._handler(signal.SIGUSR2, None)


def _job_state() -> str:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    try:
        shown = subprocess.run(
            ["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True, timeout=30
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "UNKNOWN"
    return next((word.split("=", 1)[1] for word in shown.split() if word.startswith("JobState=")), "UNKNOWN")
