"""The hidden plane: the samples at a layer of two units, and the line of the linear probe."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from layerprobe.report import style
from layerprobe.report.tidy import captions
from layerprobe.report.toy import panel
from layerprobe.report.toy.boundary_plane import cut_to_panel

_TEXT_WIDTH, _TEXT_HEIGHT = 52, 20


def hidden_plane(hidden: pd.DataFrame, lines: pd.DataFrame) -> alt.ConcatChart:
    """Draw the samples at layers of two units, with the line that separates the probe's two answers.

    Args:
        hidden: The samples at one or more layers and checkpoints: checkpoint, step, layer, x1, x2, h1, h2, label.
        lines: The probes: checkpoint, layer, w1, w2, bias; the line is w1·h1 + w2·h2 + bias = 0. From `project`; a
            panel without a probe shows the samples alone.

    Returns:
        The chart, a panel for each checkpoint and layer. Samples that coincide share one text; where they differ in
        label, the black point lies inside the white one.
    """
    named = captions(hidden)
    n_layers = hidden["layer"].nunique()
    panels, missing = [], False
    for (checkpoint, layer), states in hidden.groupby(["checkpoint", "layer"], sort=False):
        here = lines[(lines["checkpoint"] == checkpoint) & (lines["layer"] == layer)]
        missing |= len(line_ends(states, here)) < 2 * len(here)
        caption = named[str(checkpoint)]
        panels.append(hidden_panel(states, here, caption if n_layers == 1 else f"{caption} · {layer}"))
    notes = ["dashed: where the linear probe changes its answer"]
    if missing:
        notes.append("no line: the same answer everywhere in view")
    only = f" at {hidden['layer'].iloc[0]}" if n_layers == 1 else ""
    return panel.side_by_side(panels, f"Hidden states{only}", notes, columns=n_layers)


def hidden_panel(states: pd.DataFrame, lines: pd.DataFrame, caption: str) -> alt.LayerChart | alt.FacetChart:
    """Draw one panel, of one checkpoint and layer; or of an animation, where the rows have a column `frame`."""
    h1, h2 = ranges(states)
    x = alt.X("h1:Q", scale=panel.exact_scale(*h1), axis=panel.axis("h1", grid=True))
    y = alt.Y("h2:Q", scale=panel.exact_scale(*h2), axis=panel.axis("h2", grid=True))
    marks = []
    if len(ends := line_ends(states, lines)):
        dashed = panel.at_frame(ends).mark_line(color=style.TRAINED[1], strokeWidth=2, strokeDash=[6, 3])
        marks.append(dashed.encode(x=x, y=y))
    few = panel.are_few(states)
    frames = [name for name in ("frame",) if name in states]
    if few:
        found = [
            [
                part.assign(**{name: here[name].iloc[0] for name in frames})
                for part in spots(here, panel.SIDE / (h1[1] - h1[0]))
            ]
            for _, here in states.groupby("checkpoint", sort=False)
        ]
        points, texts = (pd.concat(parts, ignore_index=True) for parts in zip(*found, strict=True))
    else:
        points, texts = states[[*frames, "label", "h1", "h2"]].assign(size=30), pd.DataFrame(columns=["dy"])
    marks.append(panel.samples(panel.at_frame(points).encode(x=x, y=y), few))
    for dy in sorted(set(texts["dy"].tolist())):
        side = panel.at_frame(texts[texts["dy"] == dy]).encode(x=x, y=y)
        marks += panel.text_with_halo(side, alt.Text("inputs:N"), dy)
    return panel.panel(marks, caption)


def line_ends(states: pd.DataFrame, lines: pd.DataFrame) -> pd.DataFrame:
    """Cut the probes' lines to the panel that shows them.

    Returns:
        h1, h2 and where there are frames, frame: two rows for each line, none for one that misses the panel.
    """
    ends = []
    for line in lines.to_dict("records"):
        cut = cut_to_panel(line["w1"], line["w2"], line["bias"], *ranges(states))
        ends.append(cut.assign(frame=line["frame"]) if "frame" in line else cut)
    return pd.concat(ends, ignore_index=True) if ends else pd.DataFrame(columns=["h1", "h2"])


def spots(group: pd.DataFrame, pixels: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join samples that lie close together on a scale of `pixels` for one of h: points and texts, one of each.

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
    """Choose a range for each axis: the samples in its middle, of one length, so that a right angle looks like one."""
    values = group[["h1", "h2"]].to_numpy(dtype=float)
    low, high = values.min(0), values.max(0)
    half = 0.75 * float((high - low).max()) or 1.0
    middle = (low + high) / 2
    return (middle[0] - half, middle[0] + half), (middle[1] - half, middle[1] + half)
