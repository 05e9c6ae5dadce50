"""Comparisons in Python of what the page compares in its script."""

from __future__ import annotations

import pandas as pd

from layerprobe.report.difference import compare_heads, tested_heads
from layerprobe.results.reader import Run


def compare_layers(run: Run, checkpoint: str, layer: str) -> pd.DataFrame:
    """Compare one layer of a run with each of its others, as the page does under "one layer against the others"."""
    tested = tested_heads(run, checkpoint)
    others = {name: at for name, at in tested.items() if name != layer}
    if layer not in tested:
        return compare_heads({}, {}, one_pass=True)
    return compare_heads(dict.fromkeys(others, tested[layer]), others, one_pass=True)
