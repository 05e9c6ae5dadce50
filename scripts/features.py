"""List the features that probes have kept, and remove some."""

from __future__ import annotations

import math
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from layerprobe.jobs.command_line import read_arguments
from layerprobe.program import name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerprobe.probing.features.feature_store import StoredFeatures

EXAMPLES = """
  features.py                                 what probes with probe.keep=true have kept, by network and data
  features.py keep=DIR                        what probes with probe.keep=DIR have kept
  features.py unused=30d                      remove what no probe has used for 30 days
  features.py left=50GB                       remove the least recently used, until 50 GB are left
  features.py network=3fa9 left=0             remove what is kept of one network
"""


@dataclass
class Arguments:
    """List the features that probes have kept, and remove some.

    Attributes:
        keep: The folder of kept features.
        network: Which network, by the beginning of its hash; by default all.
        unused: Remove what no probe has used for so long: 12h, 30d.
        left: Remove the least recently used, until so much is left: 0, 500MB, 50GB.
    """

    keep: str = "features"
    network: str = ""
    unused: str | None = None
    left: str | None = None


def main() -> None:
    cfg = read_arguments(Arguments, EXAMPLES)
    from layerprobe.formatting import count_text, n_bytes, size_text

    try:
        before = time.time() - seconds(cfg.unused) if cfg.unused else 0.0
        leave = math.inf if cfg.left is None else n_bytes(cfg.left)
        if math.isnan(leave):
            raise ValueError(f"left={cfg.left} is no size. Give bytes, or a size such as 500MB or 50GB.")
    except ValueError as error:
        raise SystemExit(f"{name()}: {error}") from None
    if not Path(cfg.keep).is_dir():
        if Path(cfg.keep).exists():
            raise SystemExit(
                f"{name()}: keep={cfg.keep} is a file, expected a folder of kept features. Give one: keep=DIR"
            )
        print(f"There is no folder {cfg.keep}. Probes with probe.keep={cfg.keep} make it; to look at another: keep=DIR")
        return
    from layerprobe.probing.features.feature_store import FeatureStore, FeatureStoreError
    from layerprobe.report.tables.feature_store_table import feature_table

    try:
        store = FeatureStore(Path(cfg.keep))
        entries = [entry for entry in store.entries() if entry.network.startswith(cfg.network)]
        if not entries:
            which = f" of a network whose hash begins with {cfg.network}" if cfg.network else ""
            print(f"Nothing{which} is kept in {cfg.keep}.")
            return
        gone = leaving(entries, before, leave)
        if gone:
            store.remove(gone)
            print(f"Removed {size_text(sum(entry.size for entry in gone))} in {count_text(len(gone), 'file')}.")
    except (FeatureStoreError, OSError) as error:
        raise SystemExit(f"{name()}: {error}") from None
    kept = [(one.network, one.about, one.size, one.used) for one in entries if one not in gone]
    Console().print(feature_table(cfg.keep, kept))


def seconds(text: str) -> float:
    """Read a duration such as 12h or 30d."""
    import pandas as pd

    found = math.nan
    if re.search("[A-Za-z:]", text):  # a bare number would be nanoseconds
        with suppress(ValueError):
            found = pd.Timedelta(re.sub("d$", "D", text)).total_seconds()
    if not found > 0:
        raise ValueError(f"unused={text} is no time. Give 12h or 30d.")
    return found


def leaving(entries: Sequence[StoredFeatures], before: float, leave: float) -> list[StoredFeatures]:
    """What is to be removed.

    Args:
        entries: Those that there are, that which was used last at the end.
        before: Go what was last used before that time.
        leave: Bytes that may stay.
    """
    found, total = [], sum(entry.size for entry in entries)
    for entry in entries:
        if entry.used < before or total > leave:
            found.append(entry)
            total -= entry.size
    return found


if __name__ == "__main__":
    main()
