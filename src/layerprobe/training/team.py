"""Team of processes that probe one checkpoint: the first keeps every result, and all know how the whole went."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Event, RLock, Thread
from typing import Any, Literal, TypeAlias

from layerprobe.training.collectives import Ranks
from layerprobe.training.rank_exchange import OtherProcessError, OthersHaveLeft, different_samples
from layerprobe.types import LayerResult

log = logging.getLogger("layerprobe")

Outcome: TypeAlias = Literal["done", "stopped", "failed"]

_taking = RLock()
"""Held while a message is taken, which writes and shows. No process is forked meanwhile: it would find the locks of
stderr as they were, and wait for ever for a thread that it does not have."""

os.register_at_fork(before=_taking.acquire, after_in_parent=_taking.release, after_in_child=_taking.release)


class ProbingStopped(Exception):
    """Probing was left before a layer, which the message names; those that are done are kept."""


@dataclass(frozen=True)
class _Begun:
    """A process has come to a layer."""

    layer: int
    of: int
    samples: str = ""


@dataclass(frozen=True)
class _Ended:
    """A process has done its part, or left it."""

    outcome: Outcome = "done"
    error: str = ""
    trace: str = ""


class Team:
    """The processes that probe one checkpoint together.

    Each tells the first one which of its layers it begins, and hands it every result; the answer says whether to stop,
    for a signal or an error anywhere. So nobody waits for anybody before the end, the first one keeps a result when it
    is there, and a process that stops leaves the others to finish the layer that they are at.

    Nothing of another process is kept before the first one has recorded the splits too, and then only where both have
    read the same samples.

    At the end of the block all know how the whole went. An error is raised in the first process, where it is reported,
    and the others leave quietly: with `SystemExit(0)`, since a launcher that sees one fail would kill the first.

    Args:
        ranks: The processes.
        keep: Takes a result, in the first process, one at a time.
        show: Told there how many layers are done, and of how many.
        is_stopping: Tells there whether a signal has come.
    """

    def __init__(
        self,
        ranks: Ranks,
        keep: Callable[[LayerResult], None],
        show: Callable[[int, int], None],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._ranks, self._keep, self._show, self._is_stopping = ranks, keep, show, is_stopping
        self._has_read = Event()
        self._begun: dict[int, _Begun] = {}
        self._stopped = False
        self._failure: Exception | None = None
        self._ends: dict[int, Future[_Ended]] = {}
        self._outcome: Future[Outcome] = Future()
        self._threads: list[Thread] = []

    def __enter__(self) -> Team:
        """Begin to listen to the others, in the first process."""
        for rank in range(1, self._ranks.size) if self._ranks.is_first else ():
            self._ends[rank] = Future()
            # A daemon: it must not hold up a process that leaves at once.
            self._threads.append(Thread(target=self._listen, args=(rank,), name=f"rank-{rank}", daemon=True))
            self._threads[-1].start()
        return self

    def begin(self, layer: int, of: int, samples: str = "") -> bool:
        """Say that this process has come to a layer, or with the number of all to the end; whether to stop before it.

        `layer` is its number among the `of` layers of this process, from 0, and `samples` the fingerprint of
        all that it has read.

        Raises:
            OtherProcessError: In the first process, where another one has read other samples.
        """
        self._begun[self._ranks.rank] = here = _Begun(layer, of, samples)
        return bool(self._tell(here))

    def hand_over(self, result: LayerResult) -> None:
        """Have a result kept.

        Raises:
            Exception: In the first process, what keeping it raises.
        """
        self._tell(result)

    @property
    def where(self) -> str:
        """How far all are, as the first process knows; elsewhere how far this one is."""
        done, total = self._layers()
        return f"layer {min(done + 1, total)} of {total}"

    def _layers(self) -> tuple[int, int]:
        begun = list(self._begun.values())
        return sum(each.layer for each in begun), sum(each.of for each in begun)

    def _tell(self, message: Any) -> Any:
        if self._ranks.is_first:
            answer = self._take(0, message)
            if self._failure is not None:
                raise self._failure
            return answer
        self._ranks.send(message, 0)
        return self._ranks.receive(0)

    def _take(self, rank: int, message: LayerResult | _Begun) -> bool:
        """Take a message in the first process; whether its sender is to stop."""
        with _taking:
            try:
                if not isinstance(message, LayerResult):
                    self._begun[rank] = message
                    self._compare(rank)
                elif 0 in self._begun and self._failure is None:
                    self._keep(message)
                if 0 in self._begun:  # before that it shows how it records
                    self._show(*self._layers())
            except Exception as error:  # raised in the first process's own thread
                self._failure = self._failure or error
            self._stopped = self._stopped or self._is_stopping()
            return self._stopped or self._failure is not None

    def _compare(self, rank: int) -> None:
        """See whether a process, or any other one than the first, has read what the first one has."""
        first = self._begun.get(0)
        for other in self._begun if rank == 0 else (rank,):
            if first is not None and self._begun[other].samples != first.samples:
                raise OtherProcessError(different_samples(other))
        if rank == 0:
            self._has_read.set()

    def _listen(self, rank: int) -> None:
        end = self._ends[rank]
        try:
            while not isinstance(message := self._ranks.receive(rank), _Ended):
                if isinstance(message, LayerResult):
                    self._has_read.wait()
                self._ranks.send(self._take(rank, message), rank)
        except Exception:  # it has died, or what it sends cannot be read
            message = _Ended("failed", f"The process of rank {rank} has ended in the middle of probing.")
        self._stopped = self._stopped or message.outcome != "done"
        end.set_result(message)
        outcome = self._outcome.result()
        try:
            self._ranks.send(outcome, rank)
        except Exception:
            log.debug("The process of rank %d has ended.", rank)

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        """Wait for all, unless this process is made to leave at once.

        Raises:
            OtherProcessError: In the first process, where another one has failed.
            ProbingStopped: Where a signal has come to any of them.
            SystemExit: In the others, where any has failed.
        """
        self._has_read.set()  # or never will
        if error is not None and not isinstance(error, Exception):
            self._stopped = True
            self._outcome.set_result("failed")
            return
        quiet = error is None or isinstance(error, OthersHaveLeft)  # those that have left say why
        outcome: Outcome = "done" if quiet else "stopped" if isinstance(error, ProbingStopped) else "failed"
        if not self._ranks.is_first:
            about = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
            said = f"Probing failed in the process of rank {self._ranks.rank}{about}: {type(error).__name__}: {error}"
            whole = self._tell(_Ended(outcome, said, "".join(traceback.format_exception(error))))
            if whole == "failed":
                raise SystemExit(0) from None
        else:
            whole = self._end(outcome)
        if whole == "stopped" and quiet:
            raise ProbingStopped("the end" if error is None else str(error)) from None

    def _end(self, outcome: Outcome) -> Outcome:
        """Wait for the others, in the first process, and tell them how the whole went."""
        self._stopped = self._stopped or outcome != "done"
        ends = [end.result() for end in self._ends.values()]
        outcomes = [outcome, "failed" if self._failure else "done", *(end.outcome for end in ends)]
        whole: Outcome = next((bad for bad in ("failed", "stopped") if bad in outcomes), "done")
        self._outcome.set_result(whole)
        for thread in self._threads:
            thread.join()
        if outcome == "failed":  # its own error, which goes on
            return whole
        if self._failure is not None:
            raise self._failure
        for end in ends:
            if end.outcome == "failed":
                failure = OtherProcessError(end.error)
                failure.add_note(end.trace)
                raise failure
        return whole
