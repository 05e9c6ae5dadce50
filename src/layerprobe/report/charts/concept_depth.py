"""Concept depth: accuracy over relative depth, a panel for each concept."""

from __future__ import annotations

from typing import Literal

import altair as alt
import pandas as pd

from layerprobe.report import style
from layerprobe.report.charts.curves import Y, curves, error_y

_WIDTH, _HEIGHT, _COLUMNS = 250, 190, 2
_BESIDE = 96
_DASHES = ([1, 0], [5, 3], [2, 2], [9, 3, 2, 3])


def concept_depth_chart(rows: pd.DataFrame) -> alt.FacetChart:
    """Draw accuracy over depth: a panel for each data set, a colour for each network and precision, a dash for noise.

    Args:
        rows: Rows of `concept_rows`.

    Returns:
        The chart. Bands are 95 % intervals; the grey lines across each panel are the majority class and, dashed, the
        bag of words, one for each noise where they differ by it.
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
    lowest = float(frame[["low", "accuracy", "majority", "bag_of_words"]].min().min())
    y = error_y("accuracy", alt.Scale(domain=[max(0.0, lowest - 0.03), 1.0], nice=False, zero=False))

    x = alt.X("depth:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".0%", title="depth", grid=False))
    frame["majority_name"] = _names(frame, "majority", "majority class")
    frame["bag_of_words_name"] = _names(frame, "bag_of_words", "bag of words")
    tooltip = ["run:N", "layer:N", "accuracy:Q", "f1:Q", "auc:Q"]
    layers = [
        *(_baseline("bag_of_words", "majority", [4, 3], y) if frame["bag_of_words"].notna().any() else []),
        *_baseline("majority", "bag_of_words", [1, 0], y),
        *curves(
            alt.Chart(), x, y, "accuracy", colour=colour, detail=["run:N"], interval=("low", "high"),
            band="isValid(datum.low) && isValid(datum.high)", line={"strokeDash": dash}, points={"tooltip": tooltip},
        ),
    ]  # fmt: skip
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


def _names(frame: pd.DataFrame, column: str, name: str) -> list[str]:
    """Name a baseline by the noise of the data, where a panel has several values of it."""
    noises = frame.groupby(["data", column], sort=False, dropna=False)["noise"].agg(
        lambda some: " and ".join(dict.fromkeys(some))
    )
    several = frame.groupby("data")[column].nunique()
    return [
        f"{name}\n{noises[data, value]}" if several[data] > 1 and value == value else name
        for data, value in zip(frame["data"], frame[column], strict=True)
    ]


def _baseline(column: str, other: str, dash: list[int], y: Y) -> list[alt.Chart]:
    """A line across the panel for each value, named beside it; of two near names the higher one goes up."""
    # No mean: two runs of one panel may have another noise, and so another baseline.
    known = (
        alt.Chart()
        .transform_filter(f"isValid(datum.{column})")
        .transform_aggregate(least="min(" + other + ")", groupby=[column, f"{column}_name", "data"])
    )
    marks = [known.mark_rule(color=style.QUIET, strokeWidth=1, strokeDash=dash).encode(y=y(column))]
    higher = f"!isValid(datum.least) || datum.{column} >= datum.least"
    sides: list[tuple[str, Literal["bottom", "top"]]] = [(higher, "bottom"), (f"!({higher})", "top")]
    for condition, baseline in sides:
        text = known.transform_filter(condition).mark_text(
            align="left", baseline=baseline, fontSize=10, color=style.QUIET, limit=_BESIDE, lineBreak="\n", aria=False
        )
        marks.append(text.encode(x=alt.value(_WIDTH + 5), y=y(column), text=f"{column}_name:N"))
    return marks
