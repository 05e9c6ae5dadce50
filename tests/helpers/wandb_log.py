"""Reads what an offline wandb run wrote to its log, record by record.

The log is a seven-byte header and then blocks of 32 KiB; each block holds chunks of
(checksum u32, length u16, type u8, bytes), where a type says whether the chunk is a whole record or its first, middle
or last piece. A record is one protobuf message.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HEADER, _CHUNK, _BLOCK = 7, 7, 1 << 15
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class Logged:
    """What a run has logged.

    Attributes:
        directory: The run's folder.
        history: One mapping for each call of `log`, without wandb's own keys.
        summary: Last values and what `define_metric` and the run's summary asked for.
        config: The run's configuration.
        metrics: For each defined metric its step metric, whether it is synchronised or hidden, and its summaries.
        artifacts: For each artifact its type and the paths in it.
        exit_code: None while the run goes on.
    """

    directory: Path
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    exit_code: int | None = None

    def rows(self, *keys: str) -> list[tuple[Any, ...]]:
        """Values of these keys in every history row that has them all."""
        return [tuple(row[key] for key in keys) for row in self.history if all(key in row for key in keys)]

    def table(self, key: str) -> tuple[list[str], list[list[Any]]]:
        """Columns and rows of the table logged under a key."""
        content = json.loads((self.directory / "files" / self.summary[key]["path"]).read_text())
        return content["columns"], content["data"]


def read_finished(directory: Path, seconds: float = 20.0) -> Logged:
    """Read a run's log once its writer has closed it, which is a moment after `finish` returns."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        logged = read(directory)
        if logged.exit_code is not None:
            return logged
        time.sleep(0.02)
    raise TimeoutError(f"the run in {directory} has not ended")


def read(directory: Path) -> Logged:
    """Read what a run has logged so far."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined] # made when it is imported

    logged = Logged(Path(directory))
    (file,) = logged.directory.glob("run-*.wandb")
    for message in _messages(file.read_bytes()):
        record = Record.FromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row: dict[str, Any] = {}
            _put(row, record.history.item)
            logged.history.append({key: value for key, value in row.items() if not key.startswith("_")})
        elif kind == "summary":
            _put(logged.summary, record.summary.update)
        elif kind == "run":
            _put(logged.config, record.run.config.update)
        elif kind == "config":
            _put(logged.config, record.config.update)
        elif kind == "metric":
            metric = record.metric
            logged.metrics[metric.name or metric.glob_name] = {
                "step": metric.step_metric,
                "sync": metric.options.step_sync,
                "hidden": metric.options.hidden,
                "summary": {name.name for name, value in metric.summary.ListFields() if value},
            }
        elif kind == "artifact":
            paths = sorted(entry.path for entry in record.artifact.manifest.contents)
            logged.artifacts[record.artifact.name] = (record.artifact.type, paths)
        elif kind == "exit":
            logged.exit_code = record.exit.exit_code
    return logged


def _put(target: dict[str, Any], items: Any) -> None:
    for item in items:
        *outer, last = item.nested_key or [item.key]
        place = target
        for key in outer:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                break
        else:
            place[last] = json.loads(item.value_json)


def _messages(log: bytes) -> Iterator[bytes]:
    if log[:4] != b":W&B":
        raise ValueError("not a log of wandb")
    at, pieces = _HEADER, b""
    while at + _CHUNK <= len(log):
        if _BLOCK - at % _BLOCK < _CHUNK:
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        piece = log[at + _CHUNK : at + _CHUNK + length]
        if kind == 0 or len(piece) < length:
            return
        at += _CHUNK + length
        pieces = piece if kind in (_WHOLE, _FIRST) else pieces + piece
        if kind in (_WHOLE, _LAST):
            yield pieces
