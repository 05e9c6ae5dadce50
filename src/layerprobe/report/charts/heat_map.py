"""The heat map of a run: the test error of every layer at every checkpoint as a colour."""

from __future__ import annotations

import json

import altair as alt
import pandas as pd

from layerprobe.report import style
from layerprobe.report.charts.layer_axis import columns_x, layer_names, layer_y, layers_of, row_height
from layerprobe.report.charts.overlay import overlay
from layerprobe.report.charts.tooltips import result_tooltip
from layerprobe.report.layer_labels import clipped
from layerprobe.report.tidy import axis_top, tidy_results, with_texts
from layerprobe.results.baselines import without_baselines

_COLUMNS = [
    "position", "caption", "step", "layer", "depth", "kind", "shape", "features", "status", "test_error",
    "error_text", "interval", "l2_text", "text",
]  # fmt: skip
_LETTER = 6.2


def heat_map(results: pd.DataFrame) -> alt.LayerChart:
    """Draw layers by checkpoints: the input on top, training from left to right, dark for a high test error.

    Cells that are tall enough carry their figure; a failed layer's cell is white with a cross.
    """
    frame = with_texts(tidy_results(without_baselines(results)))
    names = layer_names(frame)
    captions = frame.drop_duplicates("checkpoint")["caption"].tolist()
    top = max(0.005, axis_top(frame["test_error"]))
    height = row_height(len(names))
    wide = max(78, min(150, 520 // len(captions)))

    headings = {caption: _heading(caption, int(wide / _LETTER)) for caption in captions}
    lines = max(map(len, headings.values()))
    digits = 2 if top < 0.05 else 1
    frame["text"] = [f"{error:.{digits}%}" if error == error else "×" for error in frame["test_error"]]
    checkpoint = columns_x(
        "caption", captions, labelAngle=0, labelLimit=0, labelExpr=f"{json.dumps(headings)}[datum.label]",
        labelPadding=5 + 14 * (lines - 1), labelLineHeight=14,
    )  # fmt: skip
    layer = layer_y("position", names, height, layers_of(frame["layer"].unique()))
    rows = alt.Chart(frame[_COLUMNS]).encode(x=checkpoint, y=layer, tooltip=result_tooltip("layer", "caption"))
    layers = cells(
        rows, "test_error", top, height * len(names), text=alt.Text("text:N") if height >= 14 else None,
        failed=bool(frame["test_error"].isna().any()),
    )  # fmt: skip
    notes = [f"one linear head per layer, {frame['n_test'].max():,} test samples"]
    if (frame["test_error"] > top).any():
        notes.append(f"darkest: {top:.{digits}%} and above")
    if frame["test_error"].isna().any():
        notes.append("white: failed")
    size = wide * len(captions), height * len(names)
    return overlay(layers, *size, "Test error by layer and checkpoint", notes)


def cells(
    rows: alt.Chart,
    error: str,
    top: float,
    height: int,
    *,
    text: alt.Text | None = None,
    failed: bool = False,
    below: bool = False,
) -> list[alt.Chart]:
    """Draw cells, dark for a high error; the layers come from the lowest to the uppermost.

    Args:
        rows: A chart of rows, one for each cell, with the encodings of its place and what it says when pointed at.
        error: Field of the error.
        top: The error from which cells are darkest.
        height: Height of all cells, in pixels.
        text: The figure in each cell; None where there is no room.
        failed: Whether a cell without an error is white, with a rim.
        below: Whether the scale of colours stands below the cells, and not beside them.
    """
    length = (
        {"orient": "bottom", "gradientLength": 160} if below else {"gradientLength": min(200, max(60, height - 30))}
    )
    colour = alt.Color(
        f"{error}:Q",
        scale=alt.Scale(scheme="yellowgreenblue", domain=[0, top], clamp=True),
        legend=alt.Legend(title="test error", titlePadding=8, format="%", **length),
    )
    known = rows.transform_filter(f"isValid(datum.{error})")
    layers = [known.mark_rect(aria=False).encode(color=colour)]
    if failed:
        layers.append(empty_cells(rows.transform_filter(f"!isValid(datum.{error})")))
    if text is not None:
        ink = (
            alt.when(alt.datum[error] > style.WHITE_FROM * top).then(alt.value("white")).otherwise(alt.value(style.INK))
        )
        layers.append(rows.mark_text(fontSize=10.5, aria=False).encode(text=text, color=ink))
    return layers


def empty_cells(rows: alt.Chart) -> alt.Chart:
    """Draw cells without a figure: white, with a rim."""
    return rows.mark_rect(fill="white", stroke=style.FAINT, strokeWidth=1, aria=False)


def _heading(caption: str, longest: int) -> list[str]:
    """Write the checkpoint's name, and its step below it."""
    name, _, rest = caption.partition(" (")
    return [clipped(name, longest), *([rest.removesuffix(")")] if rest else [])]
