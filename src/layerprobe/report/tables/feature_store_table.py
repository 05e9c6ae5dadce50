"""The table of the features that are kept on disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from rich import box
from rich.table import Table
from rich.text import Text

from layerprobe.formatting import count_text, size_text


class _Entry(Protocol):
    @property
    def network(self) -> str: ...
    @property
    def about(self) -> Mapping[str, str]: ...
    @property
    def size(self) -> int: ...
    @property
    def used(self) -> float: ...


def feature_table(place: str, entries: Sequence[_Entry]) -> Table:
    """Lay out what is kept: a line for each network and each set of inputs, what was used last at the end."""
    groups: dict[tuple[str, ...], list[_Entry]] = defaultdict(list)
    for entry in entries:
        about = entry.about
        groups[entry.network, about["network"], about["split"], about["samples"], about["inputs"]].append(entry)
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title = f"{place}: {size_text(sum(entry.size for entry in entries))} in {count_text(len(entries), 'file')}"
    for name in ("network", "class", "split", "samples", "layers", "size", "last used"):
        table.add_column(name, justify="right" if name in ("samples", "layers", "size") else "left")
    for (network, kind, split, samples, _), found in groups.items():
        layers = {entry.about["layer"] for entry in found}
        used = datetime.fromtimestamp(max(entry.used for entry in found)).strftime("%Y-%m-%d %H:%M")
        size = size_text(sum(entry.size for entry in found))
        cells = (network[:8], kind, split, samples, str(len(layers)), size, used)
        table.add_row(*map(Text, cells))
    return table
