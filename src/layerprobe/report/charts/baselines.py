"""Baselines and controls in a chart: thin grey lines, with their names at the right edge."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

from layerprobe.report import style
from layerprobe.report.charts.curves import Y

_SOLID = ("majority class", "mean of train")
_LETTER = 11
"""Pixels from one name to the next, at least."""


def name_places(values: Sequence[float], domain: tuple[float, float], height: int) -> list[float]:
    """Find places for names beside lines, none on top of another.

    Returns:
        For each line the value of the axis at the middle of its name: its own where there is room.
    """
    low, high = domain
    gap = _LETTER * (high - low) / height
    order, places = sorted(range(len(values)), key=lambda i: values[i]), [float(value) for value in values]
    for below, above in itertools.pairwise(order):
        places[above] = max(places[above], places[below] + gap)
    limit = high
    for i in reversed(order):
        places[i] = min(places[i], limit)
        limit = places[i] - gap
    return places


def baseline_rows(errors: Mapping[str, float], domain: tuple[float, float], height: int) -> pd.DataFrame:
    """Lay out the baselines of one panel for `baseline_lines`.

    Returns:
        A row for each: `baseline` (its value), `baseline_name`, `baseline_place` (of the name) and `solid`.
    """
    values = list(errors.values())
    return pd.DataFrame(
        {
            "baseline": pd.Series(values, dtype=float),
            "baseline_name": pd.Series(list(errors), dtype=str),
            "baseline_place": pd.Series(name_places(values, domain, height), dtype=float),
            "solid": pd.Series([name.startswith(_SOLID) for name in errors], dtype=bool),
        }
    )


def baseline_lines(rows: alt.Chart, y: Y, width: int) -> list[alt.Chart]:
    """Draw lines from edge to edge, the majority's solid and the others dashed."""
    known = rows.transform_filter("isValid(datum.baseline)")
    dash = alt.when("datum.solid").then(alt.value([1, 0])).otherwise(alt.value([4, 3]))
    line = known.mark_rule(color=style.QUIET, strokeWidth=1).encode(y=y("baseline"), strokeDash=dash)
    return [line, _names(known, y, width)]


def control_lines(frame: pd.DataFrame, x: alt.X, y: Y, width: int) -> list[alt.Chart]:
    """Draw the errors of controls, which differ from layer to layer.

    The rows have `position`, `control` (its name), `value`, and in one row of each `baseline_name` and
    `baseline_place`.
    """
    if frame.empty:
        return []
    rows = alt.Chart(frame)
    tips = [alt.Tooltip("control:N"), alt.Tooltip("value:Q", title="test error", format=".2%")]
    line = rows.mark_line(color=style.QUIET, strokeWidth=1, strokeDash=[2, 2], clip=True).encode(
        x=x, y=y("value"), detail="control:N", tooltip=tips
    )
    return [line, _names(rows.transform_filter("isValid(datum.baseline_place)"), y, width)]


def _names(rows: alt.Chart, y: Y, width: int) -> alt.Chart:
    text = rows.mark_text(align="left", baseline="middle", fontSize=10, color=style.QUIET, aria=False)
    return text.encode(x=alt.value(width + 5), y=y("baseline_place"), text="baseline_name:N")
