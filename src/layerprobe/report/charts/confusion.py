"""The confusion matrix of a layer: what its head answers for the test samples of each class."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from layerprobe.report import style
from layerprobe.report.charts.heat_map import empty_cells
from layerprobe.report.charts.layer_axis import square
from layerprobe.report.charts.overlay import overlay
from layerprobe.report.layer_labels import clipped

_LARGEST = 640
_WIDEST_NAME = 24


def confusion_chart(counts: pd.DataFrame, heading: str) -> alt.LayerChart:
    """Draw true classes by predicted ones, each row in shares of its class.

    What is right, on the diagonal, is blue, and what is wrong is red, so that a rare mistake is seen beside it. A cell
    without a sample is empty. Cells that are large enough carry their share in per cent; the tooltip has the numbers.
    """
    names = [clipped(str(name), _WIDEST_NAME) for name in counts.index]
    totals = counts.sum(axis=1)
    rows, columns = np.indices(counts.shape)
    cells = pd.DataFrame({"row": rows.ravel(), "column": columns.ravel(), "samples": counts.to_numpy().ravel()})
    cells["share"] = cells["samples"] / totals.to_numpy()[cells["row"]].clip(1)
    cells["target"] = [str(counts.index[i]) for i in cells["row"]]
    cells["predicted"] = [str(counts.columns[i]) for i in cells["column"]]
    cells["right"] = cells["row"] == cells["column"]
    cells["text"] = [f"{share:.0%}" if share >= 0.005 else "" for share in cells["share"]]
    step = max(4, min(48, _LARGEST // len(names)))
    side = step * len(names)
    x, y = square(names, step, "predicted", "true class")
    base = alt.Chart(cells).encode(
        x=x, y=y,
        tooltip=[
            alt.Tooltip("target:N", title="true"), "predicted:N", "samples:Q",
            alt.Tooltip("share:Q", title="share of the class", format=".1%"),
        ],
    )  # fmt: skip
    wrong = float(cells.loc[~cells["right"], "share"].max()) if (~cells["right"]).any() else 0.0
    layers = [empty_cells(base.transform_filter(alt.datum.samples == 0))]
    for right, dark, top in ((True, "#2166ac", 1.0), (False, "#b2182b", max(wrong, 0.05))):
        shade = alt.Color("share:Q", scale=alt.Scale(range=["#f7f7f7", dark], domain=[0, top]), legend=None)
        part = base.transform_filter((alt.datum.right == right) & (alt.datum.samples > 0))
        layers.append(part.mark_rect(aria=False).encode(color=shade))
        if step >= 26:
            ink = alt.when(alt.datum.share > 0.6 * top).then(alt.value("white")).otherwise(alt.value(style.INK))
            layers.append(part.mark_text(fontSize=10.5, aria=False).encode(text="text:N", color=ink))
    notes = [f"{int(totals.sum()):,} test samples", "each row in shares of its class", "blue: right, red: wrong"]
    return overlay(layers, side, side, heading, notes, room=330).resolve_scale(color="independent")
