"""The regularisation path of a run: validation error over L2."""

from __future__ import annotations

import json
import math

import altair as alt
import pandas as pd

from layerprobe.report import style
from layerprobe.report.charts.curves import Look, curves, error_y
from layerprobe.report.charts.layer_axis import layer_names
from layerprobe.report.tidy import axis_top, tidy_results
from layerprobe.results.baselines import without_baselines

_NAMED = 12
"""So many layers have an entry of their own in the legend; more are a scale of depth."""
CHOSEN_HEAD = {"size": alt.value(50), "stroke": alt.value("white")}
"""The look of the head that validation chose, on the line of its path."""
_LAYERS = 45
_POINTS = 60
_COLUMNS = ["place", "l2", "val_error", "position", "layer", "caption", "line", "selected", "status"]


def path_curve(path: pd.DataFrame) -> alt.ConcatChart:
    """Draw validation error over L2: a line for each layer, a panel for each checkpoint, a point where the sweep chose.

    Heads of controls, and of baselines, which have no layers, are left out. A reducer, solver or seed of its own is a
    line of its own; of many layers an even choice is drawn.
    """
    frame = tidy_results(without_baselines(path[path["control"] == "none"]))
    names = layer_names(frame)
    captions = frame.drop_duplicates("checkpoint")["caption"].tolist()
    every = -(-len(names) // _LAYERS)
    frame = frame[(frame["position"] % every == 0) | (frame["position"] == len(names) - 1)]
    frame = _thinned(
        frame.assign(line=frame[["layer", "reducer", "solver", "seed"]].astype("str").agg(" ".join, axis=1))
    )
    positive = frame.loc[frame["l2"] > 0, "l2"].min()
    zero = float(positive) / 10 if positive == positive else 1e-8
    frame["place"] = frame["l2"].where(frame["l2"] > 0, zero)
    top = _top(frame)

    columns = min(len(captions), 3 if len(captions) not in (2, 4) else 2)
    width = {1: 520, 2: 340, 3: 250}[columns]
    x = alt.X("place:Q", scale=alt.Scale(type="log", nice=False), axis=_l2_axis(frame, zero))
    colour = _colour(names)
    panels = []
    for i, caption in enumerate(captions):
        y = error_y(
            None if i % columns else "validation error", alt.Scale(domain=[0, top], nice=False),
            labels=i % columns == 0,
        )  # fmt: skip
        rows = alt.Chart(frame.loc[frame["caption"] == caption, _COLUMNS])
        look = Look(colour, ["line:N"], points={"tooltip": _tooltip(), **CHOSEN_HEAD})
        layers = curves(rows, x, y, "val_error", look, marked=f"datum.selected && datum.val_error <= {top}")
        heading = alt.TitleParams(caption if len(captions) > 1 else "", fontSize=12, offset=8)
        panels.append(alt.layer(*layers).properties(width=width, height=250, title=heading))
    notes = [
        "one line per layer" if every == 1 else f"{frame['layer'].nunique()} of {len(names)} layers, a line for each"
    ]
    notes.append("a point where the sweep chose")
    if (beyond := int((frame["selected"] & (frame["val_error"] > top)).sum())) > 0:
        notes.append(f"beyond the axis: {beyond}")
    return (
        alt.concat(*panels, columns=columns, spacing=22)
        .properties(title=alt.TitleParams("Validation error over L2", subtitle=style.packed(notes, width * columns)))
        .configure(**style.theme())
    )


def _l2_axis(frame: pd.DataFrame, zero: float) -> alt.Axis:
    """Mark powers of ten, at most about seven; L2 = 0 stands a decade below the smallest."""
    low, high = (math.floor(math.log10(v) + 1e-9) for v in (frame["place"].min(), frame["place"].max()))
    powers = list(range(low, high + 1, -(-(high - low + 1) // 8)))
    is_zero = f"datum.value < {1.001 * zero:g} ? '0' : " if (frame["l2"] <= 0).any() else ""
    return alt.Axis(
        title="L2", values=[10.0**power for power in powers], tickCount=len(powers), grid=False, labelFlush=False,
        labelOverlap=False, format="~e", labelExpr=f"{is_zero}replace(datum.label, 'e+', 'e')",
    )  # fmt: skip


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("layer:N"),
        alt.Tooltip("caption:N", title="checkpoint"),
        alt.Tooltip("l2:Q", format=".2e"),
        alt.Tooltip("val_error:Q", title="validation error", format=".2%"),
        alt.Tooltip("status:N"),
    ]


def _colour(names: list[str]) -> alt.Color:
    """Colour from light for the input to dark for the last layer; the scheme's faintest end is left out."""
    scheme = alt.SchemeParams(name="viridis", extent=[0.9, 0.0])
    scale = alt.Scale(scheme=scheme, domain=[0, max(1, len(names) - 1)])
    label = f"{json.dumps(names)}[datum.value]"
    if len(names) > _NAMED:
        legend = alt.Legend(
            type="gradient",
            title="depth",
            values=[0, len(names) // 2, len(names) - 1],
            labelExpr=label,
            gradientLength=200,
            labelOverlap=False,
        )
        return alt.Color("position:Q", scale=scale, legend=legend)
    return alt.Color(
        "position:O",
        scale=alt.Scale(scheme=scheme, domain=list(range(len(names)))),
        legend=alt.Legend(title=None, labelExpr=label, symbolType="stroke", symbolStrokeWidth=3, symbolSize=260),
    )


def _thinned(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep at most so many points on a line, among them the chosen one."""
    place = frame.groupby(["checkpoint", "line"])["l2"].rank(method="first") - 1
    every = -(-int(place.max() + 1) // _POINTS)
    return frame[(place % every == 0) | frame["selected"]].copy()


def _top(frame: pd.DataFrame) -> float:
    """End of the error axis: heads that hardly learn would flatten all others, so they may leave it."""
    chosen = axis_top(frame.loc[frame["selected"], "val_error"])
    highest = 1.04 * frame["val_error"].max()
    return float(min(1.0, max(min(highest, 2.2 * chosen) if chosen > 0 else highest, 0.005)))
