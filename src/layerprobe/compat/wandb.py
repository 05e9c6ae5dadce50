"""Private names of Weights & Biases: for logging artifacts without a server, and for a process of wandb that died.

Known for wandb 0.31 and wandb-workspaces 0.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb import Run

WORKSPACE_IDS = ("_internal_name", "_internal_id")
"""Attributes of a saved workspace by which the next saving replaces it."""


@contextmanager
def artifacts_in_log(run: Run) -> Iterator[None]:
    """Have a run write artifacts to its log, as an offline run does.

    An online run asks the server before it logs a table or an artifact and keeps neither in its log: where the server
    has died, both would be lost to `wandb sync`. From the log they are uploaded all the same.
    """
    live: Any = run
    settings = live._settings
    live._settings = _AsOffline(settings)
    try:
        yield
    finally:
        live._settings = settings


class _AsOffline:
    """Settings of a run, as they are but for the answer to whether it is offline."""

    _offline = True

    def __init__(self, settings: Any) -> None:
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._settings, name)


def service_died(error: Exception) -> bool:
    """Tell whether an error of a run says that wandb's own process, which does the work, is gone."""
    import wandb

    return isinstance(error, OSError | wandb.errors.Error) or "mailbox" in type(error).__module__


def history_step(message: bytes) -> int | None:
    """Return the step of a row of history in a run's log; None for a record of another kind."""
    from wandb.proto import wandb_internal_pb2

    kind: Any = wandb_internal_pb2
    record = kind.Record.FromString(message)
    return int(record.history.step.num) if record.WhichOneof("record_type") == "history" else None
