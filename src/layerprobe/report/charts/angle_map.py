"""The map of angles: every head against every other, over layers or over checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from layerprobe.formatting import listed
from layerprobe.report import style
from layerprobe.report.angles import Over
from layerprobe.report.charts.heat_map import empty_cells
from layerprobe.report.charts.layer_axis import layers_of, square
from layerprobe.report.charts.overlay import overlay
from layerprobe.report.layer_labels import clipped, short_names
from layerprobe.report.tidy import captions

_LARGEST = 760
_WIDEST_NAME = 26


def angle_map(pairs: pd.DataFrame, heading: str) -> alt.LayerChart:
    """Draw the angles between heads as a square of cells.

    Cells are darker the nearer two heads are, on a scale on which random subspaces are 0; single directions have the
    cosine with its sign as a colour. Figures that 95 % of random subspaces would have are italic. Heads that cannot be
    compared have an empty cell with a rim, whose tooltip says why; one that can be compared with no other is left out,
    and the title says why.

    Raises:
        ValueError: If no two heads can be compared.
    """
    different = pairs[pairs["other_layer"].ne(pairs["layer"]) | pairs["other_checkpoint"].ne(pairs["checkpoint"])]
    if different["angle"].isna().all():
        reasons = different["reason"].unique().tolist()
        why = f": {'; '.join(reasons[:3])}" if reasons else ""
        raise ValueError(f"There is nothing to draw: no two heads can be compared{why}.")
    over_layers = pairs["layer"].nunique() > 1
    by = "layer" if over_layers else "checkpoint"
    kept = different.loc[different["angle"].notna(), by].unique()
    left_out = [name for name in pairs[by].unique() if name not in kept]
    alone = pairs[pairs[by].isin(left_out)].drop(different.index, errors="ignore")
    reasons = [reason for reason in alone["reason"] if reason]
    pairs = pairs[pairs[by].isin(kept) & pairs[f"other_{by}"].isin(kept)]
    names, labels, title = _places(pairs, over_layers)
    known = pairs[pairs["angle"].notna()]
    signed = bool(known["cosine"].notna().all())
    frame = _cells(pairs, by, names, signed)
    step = max(6, min(44, _LARGEST // len(labels)))
    side = step * len(labels)
    x, y = square(labels, step, None, title, orient="top")
    base = alt.Chart(frame).encode(x=x, y=y, tooltip=_tooltip(by, signed))
    layers = [
        base.transform_filter("isValid(datum.value)").mark_rect(aria=False).encode(color=_colour(signed, side)),
    ]
    if frame["value"].isna().any():
        layers.append(empty_cells(base.transform_filter("!isValid(datum.value)")))
    if step >= 30:
        dark = alt.expr.abs(alt.datum.value) > 0.6 if signed else alt.datum.value > style.WHITE_FROM
        ink = alt.when(dark).then(alt.value("white")).otherwise(alt.value(style.INK))
        for far, look in (("!datum.far", "normal"), ("datum.far", "italic")):
            figures = base.transform_filter(far).mark_text(fontSize=10.5, fontStyle=look, aria=False)
            layers.append(figures.encode(text="text:N", color=ink))
    notes = [*_notes(known, signed, bool(frame["value"].isna().any()), step, left_out), *reasons[:3]]
    return overlay(layers, side, side, heading, notes, room=300)


def heading(over: Over, checkpoint: str, layer: str) -> str:
    """Return the title of a map."""
    return f"Heads' directions by layer, {checkpoint}" if over == "layers" else f"Heads' directions at {layer}"


def _places(pairs: pd.DataFrame, over_layers: bool) -> tuple[dict[str, int], list[str], str | None]:
    """Return where each layer or checkpoint is, from the first; what it is called; and what all are a part of."""
    if over_layers:
        layers = pairs.sort_values("depth", kind="stable")["layer"].unique().tolist()
        labels = [clipped(label, _WIDEST_NAME) for label in short_names(layers)]
        return {name: i for i, name in enumerate(layers)}, labels, layers_of(layers)
    found = captions(pairs)
    return {name: i for i, name in enumerate(found)}, [clipped(c, _WIDEST_NAME) for c in found.values()], None


def _colour(signed: bool, side: int) -> alt.Color:
    length = min(200, max(60, side - 30))
    if signed:
        return alt.Color(
            "value:Q",
            scale=alt.Scale(range=[style.TRAINED[1], "#f7f7f7", style.TRAINED[0]], domain=[-1, 0, 1]),
            legend=alt.Legend(title="cosine", titlePadding=8, gradientLength=length),
        )
    named = json.dumps({"0": "as random", "1": "equal"})
    return alt.Color(
        "value:Q",
        scale=alt.Scale(scheme="yellowgreenblue", domain=[0, 1], clamp=True),
        legend=alt.Legend(
            title="nearness", titlePadding=8, gradientLength=length,
            values=[0, 0.2, 0.4, 0.6, 0.8, 1] if length >= 120 else [0, 0.5, 1],
            labelExpr=f"{named}[datum.label] || datum.label", format="~r",
        ),
    )  # fmt: skip


def _tooltip(by: str, signed: bool) -> list[alt.Tooltip]:
    shown = [
        alt.Tooltip(f"{by}:N", title="head"),
        alt.Tooltip(f"other_{by}:N", title="against"),
        alt.Tooltip("angles:N", title="angle"),
        alt.Tooltip("random:N", title="random directions" if signed else "random subspaces"),
        alt.Tooltip("n_features:Q", title="features"),
    ]
    if signed:
        shown.insert(2, alt.Tooltip("cosine_text:N", title="cosine"))
    else:
        shown += [alt.Tooltip("dimensions:Q"), alt.Tooltip("other_dimensions:Q", title="dimensions of the other")]
    return [*shown, alt.Tooltip("reason:N", title="not compared")]


def _cells(pairs: pd.DataFrame, by: str, places: Mapping[str, int], signed: bool) -> pd.DataFrame:
    """Say where each pair is, what colours it and what it says."""
    value = pairs["cosine" if signed else "nearness"].clip(-1 if signed else 0, 1)
    shown, form = (value, "{:.2f}") if signed else (pairs["angle"], "{:.0f}°")
    frame = pairs.assign(
        row=pairs[by].map(places).astype("int64"),
        column=pairs[f"other_{by}"].map(places).astype("int64"),
        value=value,
        far=pairs["angle"] >= pairs["random_low"],
        random=list(map(_random_text, pairs["random_angle"], pairs["random_low"], pairs["random_high"])),
        angles=list(map(_angles_text, pairs["angle"], pairs["smallest"], pairs["largest"])),
        cosine_text=[f"{one:.3f}" if one == one else "–" for one in pairs["cosine"]],
        text=["" if one != one else form.format(one).replace("-0.00", "0.00") for one in shown],
    )
    return frame[["row", "column", by, f"other_{by}", "value", "far", "text", "angles", "cosine_text", "random",
                  "reason", "dimensions", "other_dimensions", "n_features"]]  # fmt: skip


def _angles_text(angle: float, smallest: float, largest: float) -> str:
    if math.isnan(angle):
        return "–"
    return f"{angle:.1f}°" + (f" (from {smallest:.1f}° to {largest:.1f}°)" if largest - smallest > 0.05 else "")


def _random_text(angle: float, low: float, high: float) -> str:
    return "–" if math.isnan(angle) else f"{angle:.1f}° (95%: {low:.1f}°–{high:.1f}°)"


def _notes(known: pd.DataFrame, signed: bool, empty: bool, step: int, left_out: Sequence[str]) -> list[str]:
    notes = ["in the features' own units"]
    kinds = known.drop_duplicates(["n_features", "dimensions", "other_dimensions"])
    if len(kinds) <= 3:
        row: Any
        for row in kinds.itertuples():
            if signed:
                cosine = math.cos(math.radians(row.random_low))
                notes.append(f"95% of random directions of {row.n_features} features: |cosine| < {cosine:.2f}")
            else:
                of = f"{row.dimensions} of {row.n_features} dimensions"
                notes.append(f"random {of}: {row.random_angle:.0f}° ({row.random_low:.0f}°–{row.random_high:.0f}°)")
    else:
        low, high = known["random_angle"].min(), known["random_angle"].max()
        notes.append(f"random ones: {low:.0f}° to {high:.0f}°, by the features' number")
    if step >= 30:
        notes.append("italic: no nearer than random")
    if empty:
        notes.append("empty: other features, not compared")
    if left_out:
        notes.append(f"left out, with none to compare: {listed([clipped(name, 16) for name in left_out], 3)}")
    return notes
