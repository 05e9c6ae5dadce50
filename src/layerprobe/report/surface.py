"""Networks with two inputs or two hidden units, drawn in the plane.

The frames, one row for each point (`step` is the training step, `x1` and `x2` are the network's input):

    surface.parquet   checkpoint, step, layer, x1, x2, output            a grid over the input; `layer`: the output
    points.parquet    checkpoint, step, layer, x1, x2, label, output     the samples
    hidden.parquet    checkpoint, step, layer, x1, x2, h1, h2, label     the samples at a layer of two units

`output` is one number: the network's answer, which approaches `label` (0 or 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from torch import Tensor

from layerprobe.report import style
from layerprobe.report.frames import captions
from layerprobe.results import ProbeStore

_SIDE = 270
_NAMED = 16
"""Up to so many samples carry their input as a label."""
_CLASSES = alt.Scale(domain=[0, 1], range=["white", style.INK])


def output_surface(surface: pd.DataFrame, points: pd.DataFrame) -> alt.ConcatChart:
    """Draw the samples over the network's output as the background's colour, a panel for each checkpoint.

    Args:
        surface: The output on a grid: checkpoint, step, layer, x1, x2, output.
        points: The samples: checkpoint, step, layer, x1, x2, label, output.

    Returns:
        The chart: blue where the output is near 0, grey at 0.5, orange near 1; white points for label 0 and black
        ones for label 1, each with the network's output.
    """
    panels = []
    named = captions(surface)
    for i, (checkpoint, caption) in enumerate(named.items()):
        grid = surface[surface["checkpoint"] == checkpoint]
        halves = {axis: _spacing(grid[axis]) / 2 for axis in ("x1", "x2")}
        cells = pd.DataFrame({"output": grid["output"]})
        for axis, half in halves.items():
            cells[axis], cells[f"{axis}_end"] = grid[axis] - half, grid[axis] + half
        x_end, y_end = cells["x1_end"].max(), cells["x2_end"].max()
        # Cells overlap a little: edge to edge, their smoothed edges would let the page shine through as a mesh.
        for axis, half in halves.items():
            cells[f"{axis}_end"] += 0.15 * half
        x, y = (
            alt.X("x1:Q", scale=_span(cells["x1"].min(), x_end), axis=_axis("x1")),
            alt.Y("x2:Q", scale=_span(cells["x2"].min(), y_end), axis=_axis("x2", titled=i == 0)),
        )
        background = (
            alt.Chart(cells)
            .mark_rect(stroke=None, clip=True)
            .encode(
                x=x,
                x2="x1_end:Q",
                y=y,
                y2="x2_end:Q",
                color=alt.Color(
                    "output:Q",
                    scale=alt.Scale(
                        domain=[0, 0.5, 1], range=["#3f7fc4", "#ebebeb", "#f7b05b"], interpolate="rgb", clamp=True
                    ),
                    legend=alt.Legend(title="output", gradientLength=160, titlePadding=8, values=[0, 0.5, 1]),
                ),
            )
        )
        samples = alt.Chart(points[points["checkpoint"] == checkpoint]).encode(x=x, y=y)
        panels.append(
            alt.layer(
                background,
                samples.mark_point(filled=True, size=130, opacity=1, stroke=style.INK, strokeWidth=1.5).encode(
                    fill=alt.Fill("label:N", scale=_CLASSES, legend=_class_legend()),
                    tooltip=["x1:Q", "x2:Q", "label:N", alt.Tooltip("output:Q", format=".4f")],
                ),
                *_written(samples, alt.Text("output:Q", format=".2f")),
            ).properties(width=_SIDE, height=_SIDE, title=alt.TitleParams(caption, fontSize=12, offset=8))
        )
    return _together(panels, "What the network answers", "each sample with the network's output")


def hidden_plane(hidden: pd.DataFrame, lines: pd.DataFrame) -> alt.ConcatChart:
    """Draw the samples at layers of two units, with the line that separates the probe's two answers.

    Args:
        hidden: The samples at one or more layers and checkpoints: checkpoint, step, layer, x1, x2, h1, h2, label.
        lines: The probes: checkpoint, layer, w1, w2, bias; the line is w1·h1 + w2·h2 + bias = 0. From
            `separating_lines`; a panel without a probe shows the samples alone.

    Returns:
        The chart, a panel for each checkpoint and layer; samples that coincide share one label.
    """
    panels = []
    named = captions(hidden)
    many_layers = hidden["layer"].nunique() > 1
    for (checkpoint, layer), group in hidden.groupby(["checkpoint", "layer"], sort=False):
        low, high = _square(group)
        x = alt.X("h1:Q", scale=_span(low, high), axis=_axis("h1", grid=True))
        y = alt.Y("h2:Q", scale=_span(low, high), axis=_axis("h2", grid=True))
        few = len(group) <= _NAMED
        states = alt.Chart(_states(group, (high - low) / 50) if few else group).encode(x=x, y=y)
        points = states.mark_point(
            filled=True, size=130 if few else 30, opacity=1, stroke=style.INK, strokeWidth=1.5 if few else 0.8
        ).encode(fill=alt.Fill("label:N", scale=_CLASSES, legend=_class_legend()))
        marks = [points, *(_written(states, alt.Text("inputs:N")) if few else [])]
        here = lines[(lines["checkpoint"] == checkpoint) & (lines["layer"] == layer)]
        for w1, w2, bias in here[["w1", "w2", "bias"]].to_numpy(dtype=float):
            ends = _across(w1, w2, bias, low, high)
            marks.insert(
                0, alt.Chart(ends).mark_line(color="#D55E00", strokeWidth=2, strokeDash=[6, 3]).encode(x=x, y=y)
            )
        caption = f"{named[str(checkpoint)]} · {layer}" if many_layers else named[str(checkpoint)]
        panels.append(
            alt.layer(*marks).properties(
                width=_SIDE, height=_SIDE, title=alt.TitleParams(caption, fontSize=12, offset=8)
            )
        )
    only = "" if many_layers else f" at {hidden['layer'].iloc[0]}"
    return _together(
        panels, f"Hidden states{only}", "dashed: where the linear probe changes its answer", hidden["layer"].nunique()
    )


def separating_line(head: Mapping[str, Tensor]) -> tuple[float, float, float]:
    """Find where a head of two classes over two features changes its answer.

    With standardised features (h - mean) / scale, class 1 wins over class 0 where
    Σ_j (W_1j - W_0j) (h_j - mean_j) / scale_j + b_1 - b_0 > 0, a line in the layer's own units.

    Args:
        head: `weight` (2 2), `bias` (2), `mean` (2), `scale` (2).

    Returns:
        w1, w2 and bias of the line w1·h1 + w2·h2 + bias = 0; class 1 is on its positive side.

    Raises:
        ValueError: If the head has other shapes.
    """
    weight, bias = np.asarray(head["weight"], dtype=float), np.asarray(head["bias"], dtype=float)
    if weight.shape != (2, 2):
        raise ValueError(
            f"a separating line needs a head of 2 classes over 2 features; this one has {weight.shape}. "
            f"Next step: probe a layer of two units, unreduced, with two classes."
        )
    mean, scale = np.asarray(head["mean"], dtype=float), np.asarray(head["scale"], dtype=float)
    normal = (weight[1] - weight[0]) / scale
    return float(normal[0]), float(normal[1]), float(bias[1] - bias[0] - normal @ mean)


def separating_lines(store: ProbeStore, hidden: pd.DataFrame) -> pd.DataFrame:
    """Collect the probes' lines for the panels of `hidden_plane`.

    Args:
        store: The results that keep the heads.
        hidden: The samples, as for `hidden_plane`.

    Returns:
        checkpoint, layer, w1, w2, bias; what has no head of two classes over two features is left out.
    """
    rows = []
    for checkpoint, layer in hidden[["checkpoint", "layer"]].drop_duplicates().itertuples(index=False):
        try:
            rows.append((checkpoint, layer, *separating_line(store.head(checkpoint, layer))))
        except (KeyError, ValueError):
            continue
    return pd.DataFrame(rows, columns=["checkpoint", "layer", "w1", "w2", "bias"])


def _together(
    panels: Sequence[alt.LayerChart | alt.FacetChart], title: str, subtitle: str, columns: int = 1
) -> alt.ConcatChart:
    """Panels in rows of up to three, or of as many as make one row for each checkpoint."""
    return (
        alt.concat(*panels, columns=columns if columns > 1 else min(3, len(panels)), spacing=26)
        .properties(title=alt.TitleParams(title, subtitle=subtitle))
        .configure(**style.theme())
    )


def _written(chart: alt.Chart, text: alt.Text) -> list[alt.Chart]:
    """Text above the points, on a halo that keeps it readable over any background."""
    return [
        chart.mark_text(
            dy=-15, fontSize=11.5, stroke="white", strokeWidth=3, strokeOpacity=0.75, strokeJoin="round"
        ).encode(text=text),
        chart.mark_text(dy=-15, fontSize=11.5, color=style.INK).encode(text=text),
    ]


def _states(group: pd.DataFrame, near: float) -> pd.DataFrame:
    """One row for samples of one label that lie on the same spot, with all their inputs in `inputs`."""
    spots: list[dict[str, Any]] = []
    for row in group.itertuples():
        written = f"({row.x1:g}, {row.x2:g})"
        for spot in spots:
            if spot["label"] == row.label and max(abs(spot["h1"] - row.h1), abs(spot["h2"] - row.h2)) < near:
                spot["inputs"] = f"{spot['inputs']} {written}"
                break
        else:
            spots.append({"h1": row.h1, "h2": row.h2, "label": row.label, "inputs": written})
    return pd.DataFrame(spots)


def _square(group: pd.DataFrame) -> tuple[float, float]:
    """One range for both axes, so that a right angle looks like one."""
    values = group[["h1", "h2"]].to_numpy(dtype=float)
    low, high = float(values.min()), float(values.max())
    margin = 0.25 * (high - low) or 1.0
    return low - margin, high + margin


def _across(w1: float, w2: float, bias: float, low: float, high: float) -> pd.DataFrame:
    """The part of a line that lies in the square [low, high]²: two points, or none."""
    ends = []
    for fixed in (low, high):
        if w2 and low <= (h2 := -(w1 * fixed + bias) / w2) <= high:
            ends.append((fixed, h2))
        if w1 and low <= (h1 := -(w2 * fixed + bias) / w1) <= high:
            ends.append((h1, fixed))
    return pd.DataFrame(sorted(set(ends))[:: max(1, len(set(ends)) - 1)][:2], columns=["h1", "h2"], dtype=float)


def _spacing(values: pd.Series) -> float:
    distinct = np.unique(values.to_numpy(dtype=float))
    return float(np.diff(distinct).min()) if len(distinct) > 1 else 1.0


def _span(low: float, high: float) -> alt.Scale:
    return alt.Scale(domain=[float(low), float(high)], nice=False, zero=False)


def _axis(name: str, *, grid: bool = False, titled: bool = True) -> alt.Axis:
    return alt.Axis(title=name if titled else None, tickCount=4, grid=grid, titleAngle=0)


def _class_legend() -> alt.Legend:
    return alt.Legend(title="label", symbolStrokeColor=style.INK, symbolStrokeWidth=1.5, titlePadding=6)
