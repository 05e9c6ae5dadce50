"""The heat map of a run: the test error of every layer at every checkpoint as a colour."""

from __future__ import annotations

import json
from collections.abc import Sequence

import altair as alt
import pandas as pd

from layerprobe.report import style
from layerprobe.report.charts.layer_axis import layer_names, thinned
from layerprobe.report.charts.tooltips import result_tooltip
from layerprobe.report.layer_labels import clipped, shared_folder
from layerprobe.report.tidy import axis_top, tidy_results, with_texts
from layerprobe.results.baselines import without_baselines

_COLUMNS = [
    "position", "caption", "step", "layer", "depth", "kind", "shape", "features", "status", "test_error",
    "error_text", "interval", "l2_text", "text",
]  # fmt: skip
_TALLEST = 920
_LETTER = 6.2


def heat_map(results: pd.DataFrame) -> alt.LayerChart:
    """Draw layers by checkpoints: the input on top, training from left to right, dark for a high test error.

    Args:
        results: Results of one run, in the columns of `ProbeRecord`.

    Returns:
        The chart. Cells that are tall enough carry their figure; a failed layer's cell is white with a cross.
    """
    frame = with_texts(tidy_results(without_baselines(results)))
    names = layer_names(frame)
    captions = frame.drop_duplicates("checkpoint")["caption"].tolist()
    top = max(0.005, axis_top(frame["test_error"]))
    height = max(5, min(26 if len(names) <= 16 else 18, _TALLEST // len(names)))
    wide = max(78, min(150, 520 // len(captions)))
    shared = shared_folder(frame["layer"].unique().tolist())

    headings = {caption: _heading(caption, int(wide / _LETTER)) for caption in captions}
    lines = max(map(len, headings.values()))
    digits = 2 if top < 0.05 else 1
    frame["text"] = [f"{error:.{digits}%}" if error == error else "×" for error in frame["test_error"]]
    checkpoint = alt.X(
        "caption:N",
        sort=captions,
        scale=alt.Scale(paddingInner=0.03, paddingOuter=0.015),
        axis=alt.Axis(
            orient="top", title=None, domain=False, ticks=False, labelAngle=0, labelLimit=0,
            labelExpr=f"{json.dumps(headings)}[datum.label]", labelPadding=5 + 14 * (lines - 1), labelLineHeight=14,
        ),
    )  # fmt: skip
    layer = alt.Y(
        "position:O",
        # A first cell that begins at -1e-15 by rounding would lose its name: a margin keeps it inside.
        scale=alt.Scale(paddingInner=0.06 if height >= 12 else 0, paddingOuter=0.03),
        axis=alt.Axis(
            **thinned(names, height), title=f"layers of {shared}" if shared else None, domain=False, ticks=False
        ),
    )
    layers = cells(
        alt.Chart(frame[_COLUMNS]), checkpoint, layer, "test_error", top, height * len(names),
        tooltip=result_tooltip("layer", "caption"), text=alt.Text("text:N") if height >= 14 else None,
        failed=bool(frame["test_error"].isna().any()),
    )  # fmt: skip
    notes = [f"one linear head per layer, {frame['n_test'].max():,} test samples"]
    if (frame["test_error"] > top).any():
        notes.append(f"darkest: {top:.{digits}%} and above")
    if frame["test_error"].isna().any():
        notes.append("white: failed")
    return (
        alt.layer(*layers)
        .properties(
            width=wide * len(captions),
            height=height * len(names),
            title=alt.TitleParams(
                "Test error by layer and checkpoint", subtitle=style.packed(notes, wide * len(captions))
            ),
        )
        .configure(**style.theme())
    )


def cells(
    rows: alt.Chart,
    checkpoint: alt.X,
    layer: alt.Y,
    error: str,
    top: float,
    height: int,
    *,
    tooltip: Sequence[alt.Tooltip],
    text: alt.Text | None = None,
    failed: bool = False,
    below: bool = False,
) -> list[alt.Chart]:
    """Draw a cell for each layer and checkpoint, dark for a high error.

    Args:
        rows: A chart of rows, one for each cell, with the fields that the encodings name.
        checkpoint: The horizontal encoding.
        layer: The vertical encoding.
        error: Field of the error.
        top: The error from which cells are darkest.
        height: Height of all cells, in pixels.
        tooltip: What a cell says when it is pointed at.
        text: The figure in each cell; None where there is no room.
        failed: Whether a cell without an error is white, with a rim.
        below: Whether the scale of colours stands below the cells, and not beside them.

    Returns:
        The layers, from the lowest to the uppermost.
    """
    base = rows.encode(x=checkpoint, y=layer, tooltip=list(tooltip))
    length = (
        {"orient": "bottom", "gradientLength": 160} if below else {"gradientLength": min(200, max(60, height - 30))}
    )
    colour = alt.Color(
        f"{error}:Q",
        scale=alt.Scale(scheme="yellowgreenblue", domain=[0, top], clamp=True),
        legend=alt.Legend(title="test error", titlePadding=8, format="%", **length),
    )
    known = base.transform_filter(f"isValid(datum.{error})")
    layers = [known.mark_rect(aria=False).encode(color=colour)]
    if failed:
        unknown = base.transform_filter(f"!isValid(datum.{error})")
        layers.append(unknown.mark_rect(fill="white", stroke=style.QUIET, strokeWidth=0.5, aria=False))
    if text is not None:
        ink = (
            alt.when(alt.datum[error] > style.WHITE_FROM * top).then(alt.value("white")).otherwise(alt.value(style.INK))
        )
        layers.append(base.mark_text(fontSize=10.5, aria=False).encode(text=text, color=ink))
    return layers


def _heading(caption: str, longest: int) -> list[str]:
    """The checkpoint's name, and its step below it."""
    name, _, rest = caption.partition(" (")
    return [clipped(name, longest), *([rest.removesuffix(")")] if rest else [])]
