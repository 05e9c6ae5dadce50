"""Tidy results: one row for each point of a chart, in order, with labels, captions and texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from layerprobe.files.safe_names import with_printable_names
from layerprobe.formatting import interval_texts, number_text, percent_text
from layerprobe.report.layer_labels import clipped, short_names
from layerprobe.types import UNTRAINED

T = TypeVar("T")

AT_RANDOM = ("initial", UNTRAINED)
"""Checkpoints of a network before its training: of a run that trains it, and of one that only builds it."""
_LONGEST = 36
"""Letters of a checkpoint's name that a picture has room for."""


def tidy_results(results: pd.DataFrame) -> pd.DataFrame:
    """Add what every view of the results needs.

    Returns:
        The rows in the order of training, then of depth, with these columns more:
        `position` (place of the layer among the probed ones, from 0), `label` (the layer's name, shortened),
        `checkpoint_order` (from 0), `caption` (the checkpoint's name and its training step), `untrained`.
    """
    frame = with_printable_names(results)
    order = {name: i for i, name in enumerate(captions(frame))}
    frame["checkpoint_order"] = frame["checkpoint"].map(order).astype("int64")
    frame = frame.sort_values(["checkpoint_order", "depth"], kind="stable", ignore_index=True)
    layers = frame.sort_values("depth", kind="stable")["layer"].unique()
    frame["position"] = frame["layer"].map({name: i for i, name in enumerate(layers)}).astype("int64")
    frame["label"] = frame["layer"].map(dict(zip(layers, short_names(list(layers)), strict=True))).astype("str")
    frame["untrained"] = _untrained(frame)
    frame["caption"] = frame["checkpoint"].map(captions(frame)).astype("str")
    return frame


def with_texts(frame: pd.DataFrame) -> pd.DataFrame:
    """Add figures as a reader is told them: a format of Vega would make "0.00%" of a missing one.

    Returns:
        The rows with `error_text`, `interval` (the 95 % interval of the test error) and `l2_text`, "–" where there is
        none, and `features`, such as "64 of 128".
    """
    texts = {
        "error_text": [percent_text(error) for error in frame["test_error"]],
        "interval": interval_texts(frame["test_error_low"], frame["test_error_high"]),
        "l2_text": [number_text(l2, ".2e") for l2 in frame["l2"]],
        "features": features_texts(frame),
    }
    return frame.assign(**{name: pd.Series(text, index=frame.index, dtype="str") for name, text in texts.items()})


def features_texts(frame: pd.DataFrame) -> list[str]:
    """Say how many features of a layer are kept, such as "64 of 128", or "128" where all are."""
    return [
        str(kept) if kept == full or not full else f"{kept} of {full}"
        for full, kept in zip(frame["n_features_full"], frame["n_features"], strict=True)
    ]


def captions(frame: pd.DataFrame) -> dict[str, str]:
    """Caption the checkpoints: name and training step, or that the network is untrained.

    Returns:
        The caption of each checkpoint, in the order of training. Long names lose their middle where their ends tell
        them apart.
    """
    rows = frame.assign(untrained=_untrained(frame)).drop_duplicates("checkpoint").sort_values("step", kind="stable")
    names = rows["checkpoint"].tolist()
    short = [clipped(name, _LONGEST) for name in names]
    return {
        name: _caption(shown, step, untrained)
        for name, shown, step, untrained in zip(
            names, short if len(set(short)) == len(names) else names, rows["step"], rows["untrained"], strict=True
        )
    }


def few_checkpoints(frame: pd.DataFrame, most: int = 4) -> pd.DataFrame:
    """Keep the rows of a few checkpoints, the first and the last among them, for a picture with a panel for each."""
    return frame[frame["checkpoint"].isin(evenly(list(captions(frame)), most))]


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Choose at most so many of some items, at equal distances, the first and the last among them."""
    last = len(items) - 1
    return [items[round(i * last / max(1, most - 1))] for i in range(most)] if most <= last else list(items)


def axis_top(errors: pd.Series) -> float:
    """Find how high an axis of errors has to reach: to the highest, unless that lies far above nearly all others.

    The errors may be the upper ends of their intervals; NaN is passed over.

    Returns:
        The highest error; or where at most a tenth of them lie more than three times above the others, such as the
        last layer of an untrained network, the highest of those others. NaN if there is none.
    """
    values = errors.dropna().to_numpy(dtype=float)
    if len(values) == 0:
        return math.nan
    highest = float(values.max())
    if len(values) < 8:
        return highest
    others = float(values[values <= 2 * np.quantile(values, 0.9, method="lower")].max())
    return others if highest > 3 * others > 0 else highest


def _untrained(frame: pd.DataFrame) -> pd.Series:
    """Say "untrained" of a step of 0 only where other checkpoints have more: a file may not know its step."""
    return frame["checkpoint"].isin(AT_RANDOM) | ((frame["step"] == 0) & (frame["step"].max() > 0))


def _caption(checkpoint: str, step: int, untrained: bool) -> str:
    if untrained:
        return checkpoint if checkpoint == UNTRAINED else f"{checkpoint} (untrained)"
    return f"{checkpoint} (step {step:,})" if step else checkpoint
