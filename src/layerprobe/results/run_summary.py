"""The summary of a run in `run.json`: how it ended, its metrics and its best layer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from layerprobe.files.errors import DamagedFileError
from layerprobe.files.state_files import read_state, write_state

FILE = "run.json"


RERUNS = ("failed", "all")
"""Which ended runs may be started anew."""


@dataclass(frozen=True)
class RunSummary:
    """The end of a run.

    Attributes:
        status: `done`, `failed`, `interrupted` or `killed`; `unreadable` where the file is damaged.
        overrides: The command line's overrides.
        metrics: The network's own last metrics, and the best layer's test error.
        best_layer: The layer with the lowest validation error at the last checkpoint; empty where none was probed.
        error: First line of what went wrong; empty where nothing did.
        objective: What a sweeper makes small; NaN where nothing was probed.
    """

    status: str
    overrides: Sequence[str] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    best_layer: str = ""
    error: str = ""
    objective: float = math.nan

    def write(self, directory: Path) -> None:
        """Write `run.json`, atomically; a figure that is not finite is written as null."""
        content = asdict(self)
        content["metrics"] = {k: v if math.isfinite(v) else None for k, v in self.metrics.items()}
        content["objective"] = self.objective if math.isfinite(self.objective) else None
        write_state(directory / FILE, json.dumps(content, indent=2).encode())

    @classmethod
    def read(cls, directory: Path) -> RunSummary | None:
        """Read a run's summary.

        Returns:
            The summary; None where the run has not ended. One that is damaged, with its copy, has the status
            `unreadable`, and `error` names the file.
        """
        try:
            return read_state(directory / FILE, cls.parse)
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            return cls("unreadable", error=str(error))

    @classmethod
    def parse(cls, content: bytes) -> RunSummary:
        """Read the content of a `run.json`.

        Raises:
            ValueError: Where they are no summary; `TypeError`, `KeyError` and `AttributeError` say the same.
        """
        fields = json.loads(content)
        fields["metrics"] = {k: math.nan if v is None else float(v) for k, v in fields["metrics"].items()}
        if fields.get("objective") is None:
            fields["objective"] = math.nan
        return cls(**fields)
