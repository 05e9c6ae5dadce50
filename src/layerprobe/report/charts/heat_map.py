"""Test error of every layer at every checkpoint, as a table of colours."""

from __future__ import annotations

import json

import altair as alt
import pandas as pd

from layerprobe.report import style
from layerprobe.report.charts.depth_curve import tooltip
from layerprobe.report.charts.layer_axis import layer_names, thinned
from layerprobe.report.tidy import clipped, prepare, shared_folder, usual_top, with_texts

_COLUMNS = [
    "position", "caption", "layer", "depth", "kind", "shape", "n_features", "l2", "status", "test_error",
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
    frame = with_texts(prepare(results))
    names = layer_names(frame)
    captions = frame.drop_duplicates("checkpoint")["caption"].tolist()
    top = max(usual_top(frame["test_error"]), 0.005)
    height = max(5, min(26 if len(names) <= 16 else 18, _TALLEST // len(names)))
    wide = max(78, min(150, 520 // len(captions)))
    shared = shared_folder(frame["layer"].unique().tolist())

    headings = {caption: _heading(caption, int(wide / _LETTER)) for caption in captions}
    lines = max(map(len, headings.values()))
    digits = 2 if top < 0.05 else 1
    frame["text"] = [f"{error:.{digits}%}" if error == error else "×" for error in frame["test_error"]]
    base = alt.Chart(frame[_COLUMNS]).encode(
        x=alt.X(
            "caption:N",
            sort=captions,
            scale=alt.Scale(paddingInner=0.03, paddingOuter=0.015),
            axis=alt.Axis(
                orient="top", title=None, domain=False, ticks=False, labelAngle=0, labelLimit=0,
                labelExpr=f"{json.dumps(headings)}[datum.label]", labelPadding=5 + 14 * (lines - 1), labelLineHeight=14,
            ),
        ),
        y=alt.Y(
            "position:O",
            # A first cell that begins at -1e-15 by rounding would lose its name: a margin keeps it inside.
            scale=alt.Scale(paddingInner=0.06 if height >= 12 else 0, paddingOuter=0.03),
            axis=alt.Axis(
                **thinned(names, height), title=f"layers of {shared}" if shared else None, domain=False, ticks=False
            ),
        ),
        tooltip=tooltip(),
    )  # fmt: skip
    colour = alt.Color(
        "test_error:Q",
        scale=alt.Scale(scheme="yellowgreenblue", domain=[0, top], clamp=True),
        legend=alt.Legend(
            title="test error",
            titlePadding=8,
            format=".0%" if top >= 0.05 else ".1%",
            gradientLength=min(200, max(60, height * len(names) - 30)),
        ),
    )
    ink = alt.when(alt.datum.test_error > 0.55 * top).then(alt.value("white")).otherwise(alt.value(style.INK))
    layers = [base.transform_filter("isValid(datum.test_error)").mark_rect().encode(color=colour)]
    if frame["test_error"].isna().any():
        layers.append(
            base.transform_filter("!isValid(datum.test_error)").mark_rect(
                fill="white", stroke=style.QUIET, strokeWidth=0.5
            )
        )
    if height >= 14:
        layers.append(base.mark_text(fontSize=10.5).encode(text="text:N", color=ink))
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


def _heading(caption: str, longest: int) -> list[str]:
    """The checkpoint's name, and its step below it."""
    name, _, rest = caption.partition(" (")
    return [clipped(name, longest), *([rest.removesuffix(")")] if rest else [])]
