"""Directions over depth: the fitted one against the difference of means, and those of two halves of train."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from layerprobe.report.charts.curves import error_y
from layerprobe.report.charts.layer_axis import layer_names
from layerprobe.report.charts.named_curves import named_curves
from layerprobe.report.tidy import tidy_results
from layerprobe.results.best import at_last_checkpoint

_LINES = {
    ("mean_difference", ""): "fitted and difference of means",
    ("mean_difference", "score_"): "their scores on train",
    ("stability", ""): "fitted to two halves of train",
    ("stability", "score_"): "scores of these halves",
}


def direction_curve(results: pd.DataFrame, metrics: pd.DataFrame) -> alt.LayerChart:
    """Draw the cosine, or with more than two classes the angle, between directions over depth.

    Returns:
        The chart, of the last checkpoint. Between the ends of the grey band are 95 % of random directions.

    Raises:
        ValueError: If neither of the analyses `mean_difference` and `stability` was asked for.
    """
    last = at_last_checkpoint(results)
    found = metrics[metrics["checkpoint"].isin(last["checkpoint"]) & metrics["head"].isin([a for a, _ in _LINES])]
    signed = bool((found["metric"] == "cosine").any())
    kind = "cosine" if signed else "angle"
    frame = tidy_results(last)
    places = frame.set_index("layer")[["position", "label"]]
    rows = [
        found[(found["head"] == head) & (found["metric"] == f"{prefix}{kind}")].assign(line=name)
        for (head, prefix), name in _LINES.items()
    ]
    lines = pd.concat(rows).join(places, on="layer")
    if lines.empty:
        raise ValueError("There is nothing to draw. Ask for the analyses `mean_difference` and `stability`.")
    random = found[found["metric"] == "random_angle"].drop_duplicates("layer").join(places, on="layer")
    if signed:  # a cosine is as likely below 0 as above
        bound = [math.cos(math.radians(low)) for low in random["low"]]
        random = random.assign(value=math.nan, low=[-one for one in bound], high=bound)
    low = min(0.0, lines["value"].min(), random["low"].min()) if signed else 0
    y = error_y(
        "cosine" if signed else "angle",
        alt.Scale(domain=[low, 1 if signed else 90], nice=False),
        format=".1f" if signed else "d",
        **({} if signed else {"labelExpr": "datum.label + '°'"}),
    )
    notes = ["in the features' own units; scores: in the inner product of their covariance", "grey: 95% of random ones"]
    names = [name for name in _LINES.values() if name in set(lines["line"])]
    heading = f"Directions of heads, {last['checkpoint'].iloc[0]}"
    return named_curves(lines, names, layer_names(frame), y, heading, notes, band=random)
