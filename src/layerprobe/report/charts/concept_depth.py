"""Concept depth: accuracy over relative depth, a panel for each concept."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from layerprobe.report import style
from layerprobe.report.charts.baselines import baseline_lines, baseline_rows
from layerprobe.report.charts.curves import Look, curves, error_y

_BASELINES = {"majority": "majority class", "bag_of_words": "bag of words", "text_length": "text length"}
_WIDTH, _HEIGHT, _COLUMNS = 250, 190, 2
_BESIDE = 40
_DASHES = ([1, 0], [5, 3], [2, 2], [9, 3, 2, 3])


def concept_depth_chart(rows: pd.DataFrame) -> alt.FacetChart:
    """Draw accuracy over depth: a panel for each data set, a colour for each network and precision, a dash for noise.

    Bands are 95 % intervals; the grey lines across each panel are the majority class and, dashed, bag of words and
    text length, one for each noise where they differ by it.
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
    bottom = max(0.0, float(frame[["low", "accuracy", *_BASELINES]].min().min()) - 0.03)
    y = error_y("accuracy", alt.Scale(domain=[bottom, 1.0], nice=False, zero=False))

    x = alt.X("depth:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".0%", title="depth", grid=False))
    compared_with = [
        baseline_rows(_baselines(part), (bottom, 1.0), _HEIGHT).assign(data=data)
        for data, part in frame.groupby("data", sort=False)
    ]
    panels = alt.Facet("data:N", title=None, sort=list(dict.fromkeys(frame["data"])))
    number = frame["number"].max()
    frame = pd.concat([frame.assign(baseline=math.nan), *compared_with], ignore_index=True)
    tooltip = ["run:N", "layer:N", "accuracy:Q", "f1:Q", "auc:Q"]
    layers = [
        *baseline_lines(alt.Chart(), y, _WIDTH),
        *curves(
            alt.Chart().transform_filter("isValid(datum.accuracy)"), x, y, "accuracy",
            Look(colour, ["run:N"], {"strokeDash": dash}, {"tooltip": tooltip}),
            interval=("low", "high"), band="isValid(datum.low) && isValid(datum.high)",
        ),
    ]  # fmt: skip
    subtitle = f"accuracy of one linear head for each of {number} layers, 95% interval"
    return (
        alt.layer(*layers, data=frame)
        .properties(width=_WIDTH, height=_HEIGHT)
        .facet(facet=panels, columns=_COLUMNS, spacing={"column": _BESIDE, "row": 24})
        .resolve_axis(x="independent")  # a last row that is not full would have its axis below nothing
        .properties(title=alt.TitleParams("Concept depth", subtitle=subtitle))
        .configure(**style.theme())
    )


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="top", direction="horizontal", columns=2, symbolType="stroke")


def _baselines(panel: pd.DataFrame) -> dict[str, float]:
    """Return the baselines of one data set, told apart by its noise where that changes them."""
    found = {}
    for column, name in _BASELINES.items():
        noises = panel.dropna(subset=column).groupby(column, sort=False)["noise"].unique()
        for value, some in noises.items():
            found[f"{name} · {' and '.join(some)}" if len(noises) > 1 else name] = float(str(value))
    return found
