"""Progress bar of probing, shown on a terminal only."""

from __future__ import annotations

import sys

from tqdm import tqdm


class ProbeProgress:
    """Shows which stage of probing is going on and how far it is."""

    def __init__(self, title: str, enabled: bool | None = None) -> None:
        self._title = title
        self._enabled = sys.stderr.isatty() if enabled is None else enabled
        self._stage = ""
        self._bar: tqdm[None] | None = None

    def __enter__(self) -> ProbeProgress:
        """Start with no bar; the first report makes one."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away, also after an error."""
        self._close()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Report that `done` of `total` parts of a stage are done."""
        if not self._enabled:
            return
        if stage != self._stage or self._bar is None:
            self._close()
            self._stage = stage
            self._bar = tqdm(total=total, desc=f"{self._title}: {stage}", leave=False, dynamic_ncols=True)
        self._bar.n = done
        self._bar.refresh()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
