"""The samples at a layer of two units, and whether a line can separate them."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from layerprobe.report.tidy import captions
from layerprobe.report.toy import panel
from layerprobe.report.toy.separating_line import across

_TEXT_WIDTH, _TEXT_HEIGHT = 52, 20


def hidden_plane(hidden: pd.DataFrame, lines: pd.DataFrame) -> alt.ConcatChart:
    """Draw the samples at layers of two units, with the line that separates the probe's two answers.

    Args:
        hidden: The samples at one or more layers and checkpoints: checkpoint, step, layer, x1, x2, h1, h2, label.
        lines: The probes: checkpoint, layer, w1, w2, bias; the line is w1·h1 + w2·h2 + bias = 0. From
            `separating_lines`; a panel without a probe shows the samples alone.

    Returns:
        The chart, a panel for each checkpoint and layer. Samples that coincide share one text; where they differ in
        label, the black point lies inside the white one.
    """
    named = captions(hidden)
    n_layers = hidden["layer"].nunique()
    panels, missing = [], False
    for (checkpoint, layer), group in hidden.groupby(["checkpoint", "layer"], sort=False):
        h1, h2 = ranges(group)
        x = alt.X("h1:Q", scale=panel.span(*h1), axis=panel.axis("h1", grid=True))
        y = alt.Y("h2:Q", scale=panel.span(*h2), axis=panel.axis("h2", grid=True))
        marks = []
        here = lines[(lines["checkpoint"] == checkpoint) & (lines["layer"] == layer)]
        for w1, w2, bias in here[["w1", "w2", "bias"]].to_numpy(dtype=float):
            ends = across(w1, w2, bias, h1, h2)
            missing |= ends.empty
            dashed = alt.Chart(ends).mark_line(color="#D55E00", strokeWidth=2, strokeDash=[6, 3])
            marks += [] if ends.empty else [dashed.encode(x=x, y=y)]
        few = len(group) <= panel.LABELLED
        points, texts = spots(group, panel.SIDE / (h1[1] - h1[0])) if few else (group.assign(size=30), pd.DataFrame())
        marks.append(panel.samples(alt.Chart(points).encode(x=x, y=y), few))
        if few:
            for dy in sorted(set(texts["dy"].tolist())):
                side = alt.Chart(texts[texts["dy"] == dy]).encode(x=x, y=y)
                marks += panel.written(side, alt.Text("inputs:N"), dy)
        caption = named[str(checkpoint)]
        panels.append(panel.panel(marks, caption if n_layers == 1 else f"{caption} · {layer}"))
    notes = ["dashed: where the linear probe changes its answer"]
    if missing:
        notes.append("no line: the same answer everywhere in view")
    only = f" at {hidden['layer'].iloc[0]}" if n_layers == 1 else ""
    return panel.together(panels, f"Hidden states{only}", notes, columns=n_layers)


def spots(group: pd.DataFrame, pixels: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points and texts of samples, one of each for those that lie within some pixels of one another.

    Args:
        group: The samples: x1, x2, h1, h2, label.
        pixels: Pixels for one unit of h.

    Returns:
        Points: h1, h2, label and size, smaller where it lies inside one of another label. Texts: h1, h2, inputs and
        dy, which is below the point where another text is above it.
    """
    places: list[dict[str, Any]] = []
    for h1, h2, label, x1, x2 in group[["h1", "h2", "label", "x1", "x2"]].itertuples(index=False):
        text = f"({x1:g}, {x2:g})"
        place = next((p for p in places if max(abs(p["h1"] - h1), abs(p["h2"] - h2)) * pixels < 5), None)
        if place is None:
            place = {"h1": float(h1), "h2": float(h2), "texts": [], "labels": []}
            places.append(place)
        place["texts"].append(text)
        if label not in place["labels"]:
            place["labels"].append(label)
    points: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    for place in places:
        common = {"h1": place["h1"], "h2": place["h2"]}
        labels = sorted(place["labels"])
        outer = 130 if len(labels) == 1 else 330
        points += [common | {"label": label, "size": 110 if i else outer} for i, label in enumerate(labels)]
        crowded = any(
            abs(other["h1"] - place["h1"]) * pixels < _TEXT_WIDTH
            and abs(other["h2"] - place["h2"]) * pixels < _TEXT_HEIGHT
            and other["dy"] < 0
            for other in texts
        )
        above = -16 if len(labels) == 1 else -20
        texts.append(common | {"inputs": " ".join(place["texts"]), "dy": -above if crowded else above})
    return pd.DataFrame(points), pd.DataFrame(texts)


def ranges(group: pd.DataFrame) -> tuple[tuple[float, float], tuple[float, float]]:
    """Choose a range for each axis: the samples in its middle, of one length, so that a right angle looks like one.

    Args:
        group: The samples: h1, h2.

    Returns:
        Ends of the first axis, and of the second.
    """
    values = group[["h1", "h2"]].to_numpy(dtype=float)
    low, high = values.min(0), values.max(0)
    half = 0.75 * float((high - low).max()) or 1.0
    middle = (low + high) / 2
    return (middle[0] - half, middle[0] + half), (middle[1] - half, middle[1] + half)
