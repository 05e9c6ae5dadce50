"""Ledger of probed checkpoints: the network and the protocol that the results of each belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerprobe.files.errors import DamagedFileError, aside
from layerprobe.files.state_files import read_state, restore_state, write_state
from layerprobe.formatting import listed
from layerprobe.results.config_identity import differing, identity

FILE = "checkpoints.json"


class OtherResultsError(ValueError):
    """The name of a checkpoint is taken by results that were come by in another way."""


@dataclass(frozen=True)
class Entry:
    """What was probed under one name, and how.

    `complete` says whether every layer has a result.
    """

    source: str
    content: str
    config: Mapping[str, Any]
    complete: bool = False


class Ledger:
    """Kept as `checkpoints.json` beside the results, so that a pair of (network, protocol) is probed once.

    Raises:
        OtherResultsError: Where the file and its copy are damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._file = Path(directory) / FILE
        self._entries: dict[str, Entry] = {}
        if self._file.exists():
            restore_state(self._file, _entries)
            try:
                self._entries = read_state(self._file, _entries)
            except DamagedFileError as error:
                raise OtherResultsError(
                    f"{error} It says which network and protocol each result belongs to; the results are intact. "
                    f"Give another run_dir=DIR; or move it away ({aside(self._file)}) and probe again with force=true."
                ) from error

    def is_complete(self, name: str, entry: Entry, *, has_results: bool) -> bool:
        """Tell whether all its results are there; False also where there are none, or some.

        Raises:
            OtherResultsError: Where the results under that name are of another network or protocol.
        """
        known = self._entries.get(name)
        if not has_results and (known is None or not known.complete):
            return False  # not begun, or it failed before its first layer
        if known is None:
            raise OtherResultsError(_taken(name, "it is not known how they were made"))
        if known.content != entry.content:
            raise OtherResultsError(_taken(name, f"they are of other weights, from {known.source}"))
        if other := differing(identity(known.config), identity(entry.config)):
            pairs = [f"{key}={old}, now {new}" for key, (old, new) in other.items()]
            raise OtherResultsError(_taken(name, f"they were found with {listed(pairs, 3, '; ')}"))
        return known.complete

    def write(self, name: str, entry: Entry) -> None:
        """Keep an entry, atomically."""
        self._entries[name] = entry
        content = {name: asdict(entry) for name, entry in self._entries.items()}
        write_state(self._file, json.dumps(content, indent=1, default=str).encode())


def _entries(content: bytes) -> dict[str, Entry]:
    return {name: Entry(**entry) for name, entry in json.loads(content).items()}


def _taken(name: str, how: str) -> str:
    return (
        f"The run directory has results of {name!r} already, and {how}. They are left as they are: choose another "
        "run_dir=DIR, or force=true to replace them."
    )
