"""Erasure over depth: the error of heads before and after the property is erased, and that of the network itself."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import pandas as pd

from layerprobe.report.charts.curves import error_y
from layerprobe.report.charts.layer_axis import layer_names
from layerprobe.report.charts.named_curves import named_curves
from layerprobe.report.tidy import tidy_results
from layerprobe.results.baselines import constant_answer
from layerprobe.results.best import at_last_checkpoint

_HEAD, _ERASED = "linear head", "linear head, erased"
_OWN, _OWN_ERASED = "the network's own output", "the network's own output, erased"


def erasure_curve(results: pd.DataFrame, metrics: pd.DataFrame, own: pd.DataFrame | None = None) -> alt.LayerChart:
    """Draw test error over depth with the property and without it.

    `own` is what `layerprobe.erasure` says of the network.

    Returns:
        The chart, of the last checkpoint. Grey is the error of the best constant answer.

    Raises:
        ValueError: If there are neither figures of the analysis `erased` nor those of the network.
    """
    last = at_last_checkpoint(results)
    frame = tidy_results(last)
    places = frame.set_index("layer")[["position"]]
    columns = {"test_error": "value", "test_error_low": "low", "test_error_high": "high"}
    lines = [last.rename(columns=columns)[["layer", *columns.values()]].assign(line=_HEAD)]
    erased = metrics[
        metrics["checkpoint"].isin(last["checkpoint"]) & (metrics["head"] == "erased") & (metrics["metric"] == "error")
    ]
    erased = erased[erased["test_set"].isin(erased["test_set"].head(1))]
    lines.append(erased[["layer", "value", "low", "high"]].assign(line=_ERASED))
    for prefix, name in (("", _OWN), ("erased_", _OWN_ERASED)) if own is not None else ():
        assert own is not None
        renamed = own.rename(
            columns={f"{prefix}error": "value", f"{prefix}error_low": "low", f"{prefix}error_high": "high"}
        )
        lines.append(renamed[["layer", "value", "low", "high"]].assign(line=name))
    rows = pd.concat([one for one in lines if len(one)], ignore_index=True).join(places, on="layer", how="inner")
    names = [name for name in (_HEAD, _ERASED, _OWN, _OWN_ERASED) if name in set(rows["line"])]
    if len(names) < 2:
        raise ValueError("There is nothing to draw. Ask for the analysis `erased`, or give what `erasure` returns.")
    top = min(1.0, 1.07 * float(np.nanmax(rows[["value", "high"]].to_numpy(dtype=float))))
    majority = frame["majority_error"].dropna()
    notes = [f"{frame['n_test'].max():,} test samples", "erased: without any linear trace of the property on train"]
    if len(majority):
        notes.append(f"grey: {constant_answer(results)}, {majority.iloc[0]:.1%}")
    band = frame.assign(value=math.nan, low=frame["majority_error"], high=frame["majority_error"] + 0.003)
    y = error_y("test error", alt.Scale(domain=[0, top], nice=False))
    heading = f"What erasing the property does, {last['checkpoint'].iloc[0]}"
    return named_curves(rows, names, layer_names(frame), y, heading, notes, band=band, percent=True)
