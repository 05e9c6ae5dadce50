"""The history of a Weights & Biases run: no row is lost in a kill, and none stands twice.

wandb holds rows in memory before it writes or uploads them, and takes them in the order of their steps only. So each
row gets its step here and is first appended to a file, `wandb/history-<run id>.jsonl`. What arrived is then always
what lies below one step: the server says which when a run is resumed, the logs on this machine where it is offline.
Whoever goes on, a new process or this one after wandb's own has died, logs again what lies above it; and what a run
that goes on computes a second time is recognised and not logged a second time.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from layerprobe.compat.wandb import service_died
from layerprobe.files.atomic import write_bytes
from layerprobe.results.wandb_log_file import mend

if TYPE_CHECKING:
    from wandb import Run

Row = Mapping[str, Any]
Result = TypeVar("Result")

_MOST_RESTARTS = 5

_open: list[WandbHistory] = []


class WandbGuard:
    """Keeps what Weights & Biases raises from the run, and warns of the first of it."""

    def __init__(self) -> None:
        self._warned = False

    @contextmanager
    def __call__(self, intent: str) -> Iterator[None]:
        """Go on behind the block, whatever wandb raises in it."""
        try:
            yield
        except Exception as error:  # wandb never ends a run, whatever it raises
            if not self._warned:
                warnings.warn(
                    f"could not {intent} to Weights & Biases ({type(error).__name__}: {error}); the run goes on, and "
                    f"its results are complete in its directory. Further failures are not shown.",
                    stacklevel=3,
                )
            self._warned = True


class WandbHistory:
    """Logs rows to a run. Without a way to restart it, or where it logs nowhere, rows go to the run as they come.

    It takes up the history of a run, and logs again what earlier processes of it have logged in vain.

    Args:
        run: The run, going on.
        restart: Starts a run under the same id, after wandb's own process has died.
    """

    def __init__(self, run: Run, restart: Callable[[], Run] | None = None) -> None:
        self.run = run
        self._restart = restart if restart is not None and run.settings.mode in ("online", "offline") else None
        self._restarts = 0
        self._defined: dict[str, dict[str, Any]] = {}
        self._makers: dict[int, Callable[[], Row]] = {}
        self._before: Counter[str] = Counter()
        self._next = 0
        self._file: IO[str] | None = None
        if self._restart is not None:
            self._take_up()
            self._before = Counter(entry["id"] for entry in self._entries())
            _open.append(self)

    def define(self, key: str, **options: Any) -> None:
        """Define a metric by its exact name, once, with options of `Run.define_metric`."""
        if key not in self._defined:
            self._defined[key] = options
            if self._file is not None:
                self._append({"define": key, "options": options})
            self.attempt(lambda run: _define(run, key, options))

    def log(self, row: Row, identity: str) -> None:
        """Log a row of plain values.

        Args:
            row: Values by name.
            identity: What the row is about: a run that goes on logs nothing again that an earlier process has logged
                under the same identity.
        """
        self._log(lambda: row, identity, dict(row))

    def log_made(self, make: Callable[[], Row], identity: str) -> None:
        """Log a row of pictures, tables and the like.

        Args:
            make: Makes the row: such objects belong to the run that they were logged to, and may be needed again.
            identity: As for `log`; it should name the content.
        """
        self._log(make, identity, None)

    def attempt(self, work: Callable[[Run], Result]) -> Result:
        """Do something with the run; where wandb's own process has died, restart it and do it again.

        Raises:
            Exception: What the work raises, where another process of wandb would not help.
        """
        while True:
            try:
                return work(self.run)
            except Exception as error:  # raised again unless it says that the process has died
                if self._restart is None or not service_died(error) or self._restarts == _MOST_RESTARTS:
                    raise
                self._revive(error)

    def close(self) -> None:
        """Write down that all rows have been written or sent, and forget the run."""
        if self._file is not None:
            self._append({"kept": self._next})
            self._file.close()
            self._file = None
        if self in _open:
            _open.remove(self)

    def _log(self, make: Callable[[], Row], identity: str, plain: Row | None) -> None:
        if self._restart is None:
            self.run.log(dict(make()))
            return
        if self._before[identity] > 0:
            self._before[identity] -= 1
            return
        # Whoever logs to the run directly takes a step as well.
        step = max(self._next, self.attempt(lambda run: int(run.step)))
        self._next = step + 1
        try:
            self._append({"step": step, "id": identity, "row": plain})
        except TypeError:  # no plain values after all
            plain = None
            self._append({"step": step, "id": identity, "row": None})
        if plain is None:
            self._makers[step] = make
        n = self._restarts
        self.attempt(lambda run: run.log(dict(make()), step=step, commit=True) if n == self._restarts else None)

    def _revive(self, error: Exception) -> None:
        assert self._restart is not None
        self._restarts += 1
        warnings.warn(
            f"the process of Weights & Biases has died ({type(error).__name__}: {error}); a new one continues the "
            f"run, and what may be lost is logged again.",
            stacklevel=4,
        )
        self.run = self._restart()
        self._take_up()

    def _take_up(self) -> None:
        """Number anew what has not arrived, write that down, and log it."""
        if self._file is not None:
            self._file.close()
        reached, entries = self._reached(), list(self._entries())
        arrived = [entry for entry in entries if entry["step"] < reached]
        lost = [e for e in entries if e["step"] >= reached and (e["row"] is not None or e["step"] in self._makers)]
        makers = {reached + i: self._makers[e["step"]] for i, e in enumerate(lost) if e["step"] in self._makers}
        lost = [entry | {"step": reached + i} for i, entry in enumerate(lost)]
        self._makers, self._next = makers, reached + len(lost)
        self._defined = {line["define"]: line["options"] for line in self._lines() if "define" in line}
        definitions = [{"define": key, "options": options} for key, options in self._defined.items()]
        lines = [json.dumps(line) + "\n" for line in (*definitions, *arrived, *lost)]
        write_bytes(self._path, "".join(lines).encode())
        self._file = open(self._path, "a", buffering=1)  # noqa: SIM115
        for key, options in self._defined.items():
            _define(self.run, key, options)
        for entry in lost:
            row = entry["row"] if entry["step"] not in makers else makers[entry["step"]]()
            self.run.log(dict(row), step=entry["step"], commit=True)

    def _reached(self) -> int:
        """Find the step below which everything has arrived."""
        own = Path(self.run.settings.sync_dir).resolve()
        # By the log's own name: a start within the same second as the one before has a folder that ends in -1.
        logs = Path(self.run.settings.wandb_dir).glob(f"*run-*/run-{self.run.id}.wandb")
        logged = [mend(log) for log in logs if log.parent.resolve() != own]
        if self.run.settings.mode == "online":
            return int(self.run.starting_step)
        return max([0, *logged, *(line["kept"] for line in self._lines() if "kept" in line)])

    @property
    def _path(self) -> Path:
        return Path(self.run.settings.wandb_dir) / f"history-{self.run.id}.jsonl"

    def _lines(self) -> Iterator[dict[str, Any]]:
        with suppress(FileNotFoundError), open(self._path, errors="replace") as file:
            for line in file:
                with suppress(ValueError):  # cut short by a kill
                    content = json.loads(line)
                    if isinstance(content, dict):
                        yield content

    def _entries(self) -> Iterator[dict[str, Any]]:
        return (
            line for line in self._lines() if {"step", "id", "row"} <= line.keys() and isinstance(line["step"], int)
        )

    def _append(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(line) + "\n")


def close_histories(finish: Callable[[Run], None]) -> None:
    """End the runs whose history is open.

    `finish` is called again where wandb's own process turns out to have died.
    """
    for history in _open:
        try:
            history.attempt(finish)
        finally:
            history.close()


def _define(run: Run, key: str, options: Mapping[str, Any]) -> None:
    # wandb reads a bare dot as a step into a nested value, and then the definition matches nothing.
    run.define_metric(key.replace(".", r"\."), **options)
