"""The transfer map: the test error of each training set's heads on each test set, a square of cells for each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from layerprobe.formatting import interval_texts, percent_text
from layerprobe.report import style
from layerprobe.report.charts.heat_map import cells
from layerprobe.report.charts.layer_axis import LETTER
from layerprobe.report.layer_labels import clipped, shared_folder, short_names
from layerprobe.report.tidy import axis_top, evenly

_PANELS = 12
_WIDTH = 760
_CELL = (38, 26)
_LONGEST = 18


def transfer_map(table: pd.DataFrame, layers: Sequence[str] | None = None) -> alt.FacetChart:
    """Draw training sets by test sets, dark for a high test error; a rim marks a training set's own test set.

    Up to twelve layers are drawn, evenly over the depth, the first and the last among them, unless layers are
    named.

    Returns:
        The chart, with a panel for each layer in the order of depth. A cell is empty where nothing was read.

    Raises:
        ValueError: If there is nothing to draw, or no such layer.
    """
    if table.empty:
        raise ValueError(
            "There is nothing to draw: no two training sets have a test set in common. Read each on the same test sets."
        )
    known = table["layer"].drop_duplicates().tolist()
    if missing := [layer for layer in layers or () if layer not in known]:
        raise ValueError(f"There is no layer {missing[0]!r}. Choose among: {', '.join(known)}.")
    chosen = list(layers or evenly(known, _PANELS))
    labels = _apart(dict(zip(known, short_names(known), strict=True)))
    trains, tests = table["train"].unique().tolist(), table["test"].unique().tolist()
    names = _apart({name: clipped(name, _LONGEST) for name in [*trains, *tests]})
    frame = _cells(table[table["layer"].isin(chosen)], labels, names)
    top = max(0.005, axis_top(frame["error"]))
    wide, tall = _CELL[0] * len(tests), _CELL[1] * len(trains)
    slanted = LETTER * max(len(names[test]) for test in tests) > _CELL[0]
    scale = alt.Scale(paddingInner=0.05, paddingOuter=0.025)
    axis: dict[str, Any] = {"domain": False, "ticks": False, "labelLimit": 0}
    test = alt.X(
        "test:N", sort=[names[name] for name in tests], scale=scale,
        axis=alt.Axis(title="read on", labelAngle=-40 if slanted else 0, **axis),
    )  # fmt: skip
    train = alt.Y(
        "train:N", sort=[names[name] for name in trains], scale=scale, axis=alt.Axis(title="fitted on", **axis)
    )
    tooltip = [
        alt.Tooltip("layer:N"), alt.Tooltip("train:N", title="fitted on"), alt.Tooltip("test:N", title="read on"),
        alt.Tooltip("error_text:N", title="test error"), alt.Tooltip("interval:N", title="95% interval"),
        alt.Tooltip("n_test:Q", title="test samples", format=","), alt.Tooltip("n_runs:Q", title="runs"),
    ]  # fmt: skip
    base = alt.Chart().encode(x=test, y=train, tooltip=tooltip)
    rim = base.transform_filter("datum.own").mark_rect(fill=None, stroke=style.INK, strokeWidth=1.4, aria=False)
    drawn = [*cells(base, "error", top, tall, text=alt.Text("text:N"), below=True), rim]
    room = 40 + LETTER * max(len(names[name]) for name in trains)
    columns = max(1, min(len(chosen), int(_WIDTH // (wide + room))))
    return (
        alt.layer(*drawn, data=frame)
        .properties(width=wide, height=tall)
        .facet(
            facet=alt.Facet("panel:N", title=None, sort=[labels[layer] for layer in chosen]),
            columns=columns,
            title=alt.TitleParams(
                "Test error by training set and test set",
                subtitle=style.packed(_notes(table, known, chosen, top), max(columns * int(wide + room), 420)),
            ),
        )
        .resolve_axis(x="independent", y="independent")
        .configure(**style.theme())
    )


def _cells(rows: pd.DataFrame, panels: Mapping[str, str], names: Mapping[str, str]) -> pd.DataFrame:
    """Say in which panel each cell is, what its sets are called and what it says."""
    return rows.assign(
        panel=rows["layer"].map(panels),
        text=[
            "" if error != error else f"{error:.0%}" if error >= 0.095 else f"{error:.1%}" for error in rows["error"]
        ],
        error_text=[percent_text(error) for error in rows["error"]],
        interval=interval_texts(rows["low"], rows["high"]),
        own=rows["train"] == rows["test"],
        train=rows["train"].map(names),
        test=rows["test"].map(names),
    )


def _apart(names: dict[str, str]) -> dict[str, str]:
    """Number the short names that several have."""
    given = list(names.values())
    return {
        name: f"{short} #{given[: i + 1].count(short)}" if given.count(short) > 1 else short
        for i, (name, short) in enumerate(names.items())
    }


def _notes(table: pd.DataFrame, known: Sequence[str], chosen: Sequence[str], top: float) -> list[str]:
    fewest, most = table["n_test"].min(), table["n_test"].max()
    notes = ["one linear head per layer and training set"]
    notes.append(f"{fewest:,} test samples" if fewest == most else f"{fewest:,} to {most:,} test samples")
    if table["n_runs"].max() > 1:
        notes.append(f"means of up to {table['n_runs'].max()} runs")
    if table.loc[table["train"] == table["test"], "train"].any():
        notes.append("rim: a training set's own test set")
    if len(chosen) < len(known):
        notes.append(f"{len(chosen)} of {len(known)} layers")
    if shared := shared_folder(list(known)):
        notes.append(f"layers of {shared}")
    if (table["error"] > top).any():
        notes.append(f"darkest: {top:.0%} and above")
    if len(other := table.loc[~table["same_samples"], "test"].unique()):
        notes.append(f"not the same samples in every row: {', '.join(other)}")
    return notes
