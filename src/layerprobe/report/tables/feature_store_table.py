"""The table of the features that are kept on disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime

from rich import box
from rich.table import Table
from rich.text import Text

from layerprobe.formatting import count_text, size_text


def feature_table(place: str, entries: Sequence[tuple[str, Mapping[str, str], int, float]]) -> Table:
    """Lay out what is kept: a line for each network and each set of inputs, what was used last at the end.

    The entries are of each file its network's hash, what made it, its bytes, and when it was last used.
    """
    groups: dict[tuple[str, ...], list[tuple[str, int, float]]] = defaultdict(list)
    for network, about, size, used in entries:
        made = network, about["network"], about["split"], about["samples"], about["inputs"]
        groups[made].append((about["layer"], size, used))
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title = f"{place}: {size_text(sum(size for *_, size, _ in entries))} in {count_text(len(entries), 'file')}"
    for name in ("network", "class", "split", "samples", "layers", "size", "last used"):
        table.add_column(name, justify="right" if name in ("samples", "layers", "size") else "left")
    for (network, kind, split, samples, _), found in groups.items():
        layers, sizes, times = zip(*found, strict=True)
        last = datetime.fromtimestamp(max(times)).strftime("%Y-%m-%d %H:%M")
        cells = (network[:8], kind, split, samples, str(len(set(layers))), size_text(sum(sizes)), last)
        table.add_row(*map(Text, cells))
    return table
