"""Accuracy over relative depth, a panel for each concept."""

from __future__ import annotations

from typing import Literal

import altair as alt
import pandas as pd

from layerprobe.report import style

_WIDTH, _HEIGHT, _COLUMNS = 250, 190, 3
_BESIDE = 96
_DASHES = ([1, 0], [5, 3], [2, 2], [9, 3, 2, 3])


def concept_depth_chart(rows: pd.DataFrame) -> alt.FacetChart:
    """Draw accuracy over depth: a panel for each data set, a colour for each network and precision, a dash for noise.

    Args:
        rows: Rows of `concept_rows`.

    Returns:
        The chart. Bands are 95 % intervals; the grey lines across each panel are the majority class and, dashed, the
        bag of words.
    """
    told = ["model", "precision"] if rows["precision"].nunique() > 1 else ["model"]
    frame = rows.assign(network=rows[told].agg(" · ".join, axis=1))
    frame["run"] = frame["network"] + " · " + frame["noise"]
    networks, noises = list(dict.fromkeys(frame["network"])), list(dict.fromkeys(frame["noise"]))
    look = style.lines(["untrained" in network for network in networks])
    colour = alt.Color(
        "network:N",
        scale=alt.Scale(domain=networks, range=look.colours),
        legend=_legend() if len(networks) > 1 else None,
    )
    dash = alt.StrokeDash(
        "noise:N",
        scale=alt.Scale(domain=noises, range=list(_DASHES[: len(noises)])),
        legend=_legend() if len(noises) > 1 else None,
    )
    lowest = float(frame[["low", "majority", "bag_of_words"]].min().min())
    scale = alt.Scale(domain=[max(0.0, lowest - 0.03), 1.0], nice=False, zero=False)
    axis = alt.Axis(format=".0%", tickCount=5, title="accuracy", domain=False, ticks=False)

    x = alt.X("depth:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".0%", title="depth", grid=False))
    base = alt.Chart().encode(x=x, color=colour, detail="run:N")
    band = base.mark_area(opacity=0.08).encode(y=alt.Y("low:Q", scale=scale, axis=axis), y2="high:Q")
    line = base.mark_line(strokeWidth=1.8).encode(y=alt.Y("accuracy:Q", scale=scale, axis=axis), strokeDash=dash)
    points = base.mark_point(filled=True, opacity=1, size=20).encode(
        y=alt.Y("accuracy:Q", scale=scale, axis=axis),
        tooltip=["run:N", "layer:N", "accuracy:Q", "f1:Q", "auc:Q"],
    )
    layers = [*_baseline("majority", "majority class", "bag_of_words", [1, 0], scale, axis), band, line, points]
    if frame["bag_of_words"].notna().any():
        layers[:0] = _baseline("bag_of_words", "bag of words", "majority", [4, 3], scale, axis)
    panels = alt.Facet("data:N", title=None, sort=list(dict.fromkeys(frame["data"])))
    subtitle = f"accuracy of one linear head for each of {frame['number'].max()} layers, 95% interval"
    return (
        alt.layer(*layers, data=frame)
        .properties(width=_WIDTH, height=_HEIGHT)
        .facet(facet=panels, columns=_COLUMNS, spacing={"column": _BESIDE, "row": 24})
        .properties(title=alt.TitleParams("Concept depth", subtitle=subtitle))
        .configure(**style.theme())
    )


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="top", direction="horizontal", columns=2, symbolType="stroke")


def _baseline(
    column: str, label: str, other: str, dash: list[int], scale: alt.Scale, axis: alt.Axis
) -> list[alt.Chart]:
    """A line across the panel, named beside it; of two near names the higher one goes up and the lower one down."""
    y = alt.Y(f"mean({column}):Q", scale=scale, axis=axis)
    known = alt.Chart().transform_filter(f"isValid(datum.{column})")
    marks = [known.mark_rule(color=style.QUIET, strokeWidth=1, strokeDash=dash).encode(y=y)]
    higher = f"!isValid(datum.{other}) || datum.{column} >= datum.{other}"
    sides: list[tuple[str, Literal["bottom", "top"]]] = [(higher, "bottom"), (f"!({higher})", "top")]
    for condition, baseline in sides:
        text = known.transform_filter(condition).mark_text(
            align="left", baseline=baseline, fontSize=10, color=style.QUIET,
            text=label,
        )  # fmt: skip
        marks.append(text.encode(x=alt.value(_WIDTH + 5), y=y))
    return marks
