"""The table of a plan: the layers that would be probed."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from layerprobe.formatting import size_text, time_text


def plan_table(layers: pd.DataFrame) -> Table:
    """Lay out a plan: a line for each layer, all of them.

    Args:
        layers: Columns depth, layer, shape (as text), n_features, bytes, place, record_seconds, seconds.
    """
    table = Table(box=box.SIMPLE_HEAD, title="Layers to probe", title_justify="left", padding=0)
    for name in ("depth", "layer", "shape", "features", "size", "kept in", "record", "fit"):
        right = name not in ("layer", "shape", "kept in")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in layers.to_dict("records"):
        table.add_row(
            str(row["depth"]),
            Text(str(row["layer"])),
            Text(str(row["shape"])),
            f"{row['n_features']:,}",
            size_text(row["bytes"]) if row["bytes"] else "-",
            str(row["place"]),
            time_text(row["record_seconds"]),
            time_text(row["seconds"]),
        )
    return table
