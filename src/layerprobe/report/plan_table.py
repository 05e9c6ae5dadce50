"""What would be probed, as a table for the terminal."""

from __future__ import annotations

import math

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text


def plan_table(layers: pd.DataFrame) -> Table:
    """Lay out a plan: a line for each layer, all of them.

    Args:
        layers: Columns depth, layer, kind, shape (as text), n_features_full, n_features, bytes, seconds.

    Returns:
        The table.
    """
    table = Table(box=box.SIMPLE_HEAD, title="Layers to probe", title_justify="left", pad_edge=False)
    for name in ("depth", "layer", "kind", "shape", "full", "reduced", "memory", "fit"):
        right = name not in ("layer", "kind", "shape")
        table.add_column(name, justify="right" if right else "left", no_wrap=name == "layer")
    for row in layers.to_dict("records"):
        table.add_row(
            str(row["depth"]),
            Text(str(row["layer"])),
            Text(str(row["kind"])),
            Text(str(row["shape"])),
            f"{row['n_features_full']:,}",
            f"{row['n_features']:,}",
            size_text(row["bytes"]),
            time_text(row["seconds"]),
        )
    return table


def size_text(n_bytes: float) -> str:
    """Write a number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def time_text(seconds: float) -> str:
    """Write a duration; a question mark for NaN."""
    if math.isnan(seconds):
        return "?"
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
