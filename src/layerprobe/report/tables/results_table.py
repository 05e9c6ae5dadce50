"""The table of a run's results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from layerprobe.formatting import number_text, percent_text
from layerprobe.report.tables.table_width import first_that_fits
from layerprobe.report.tidy import evenly, tidy_results
from layerprobe.results.baselines import baseline_errors, without_baselines

_COMPACT = 24
_MOST_CHECKPOINTS, _FEWEST = 6, 2


def results_table(results: pd.DataFrame, rows: int = 200, width: int | None = None) -> Table:
    """Lay out one run: a line for each layer, the test error and its 95% interval for each checkpoint.

    Args:
        results: Results of one run, in the columns of `ProbeRecord`.
        rows: Layers to show at most. Of more, an even choice is shown, with the failed ones and with those that
            validation prefers, and the caption says so; above 24 layers the columns of kind, shape and features are
            left out.
        width: Letters on a line; by default the terminal's. Those columns are left out too where it is too short, and
            then checkpoints between the first and the last.

    Returns:
        The table; a star marks the layer that validation prefers at its checkpoint.
    """
    frame = tidy_results(without_baselines(results))
    baselines = baseline_errors(results)
    ways = [(False, _MOST_CHECKPOINTS), *((True, most) for most in range(_MOST_CHECKPOINTS, _FEWEST - 1, -1))]
    ways = ways[frame["layer"].nunique() > _COMPACT :]
    return first_that_fits((_table(frame, baselines, rows, most, compact=compact) for compact, most in ways), width)


def _table(
    frame: pd.DataFrame, baselines: Mapping[str, Sequence[float]], rows: int, most: int, *, compact: bool
) -> Table:
    checkpoints = frame.drop_duplicates("checkpoint")["checkpoint"].tolist()
    shown = evenly(checkpoints, most)
    layers = frame.sort_values(["position", "checkpoint_order"]).drop_duplicates("position", keep="last")
    usable = frame[frame["val_error"].notna()]
    best = usable.loc[usable.groupby("checkpoint")["val_error"].idxmin()]
    best_at = set(zip(best["checkpoint"], best["position"], strict=True))
    kept = _kept(frame, best, rows)

    table = Table(box=box.SIMPLE_HEAD, title="Test error by layer, %", title_justify="left", pad_edge=False)
    table.add_column("depth", justify="right", no_wrap=True)
    table.add_column("layer", overflow="fold", min_width=12)
    for name in () if compact else ("kind", "shape"):
        table.add_column(name)
    if not compact:
        table.add_column("features", justify="right")
    for checkpoint in shown:
        table.add_column(Text(checkpoint), justify="right", no_wrap=True)
    several = frame["reducer"].nunique() > 1
    if several:
        table.add_column("reducer")
    table.add_column("l2", justify="right", no_wrap=True)
    table.add_column("status", min_width=6)

    cells = frame.set_index(["checkpoint", "position"])
    for layer in layers.to_dict("records"):
        position = int(layer["position"])
        if position not in kept:
            continue
        line = [Text(str(layer["depth"])), Text(layer["label"])]
        if not compact:
            features = _features(layer["n_features_full"], layer["n_features"])
            line += [Text(layer["kind"]), Text(layer["shape"]), Text(features)]
        for checkpoint in shown:
            key = (checkpoint, position)
            row = cells.loc[key] if key in cells.index else None
            mark = " *" if key in best_at else "  "
            line.append(Text("" if row is None else _error(row) + mark, style="bold" if key in best_at else ""))
        line += [Text(str(layer["reducer"]))] if several else []
        line += [Text(f"{layer['l2']:.0e}"), _status(frame[frame["position"] == position])]
        table.add_row(*line)
    table.caption = _caption(baselines, len(kept), len(layers), len(shown), len(checkpoints))
    table.caption_justify = "left"
    return table


def _error(row: pd.Series) -> str:
    error, low, high = (100 * float(row[name]) for name in ("test_error", "test_error_low", "test_error_high"))
    if math.isnan(error):
        return "failed" if row["status"] == "failed" else "–"
    if math.isnan(low) or math.isnan(high):
        return number_text(error, ".2f")
    half = (high - low) / 2
    digits = 2 if half < 1 else 1
    # An interval that ends at 0 or 1 is not as wide on both sides.
    if error < half or (error + half > 100 >= high):
        error_text, low_text, high_text = (number_text(value, f".{digits}f") for value in (error, low, high))
        return f"{error_text} [{low_text}, {high_text}]"
    return f"{error:.{digits}f} ±{half:.{digits}f}"


def _features(full: int, kept: int) -> str:
    return f"{full:,}" if full == kept else f"{full:,} → {kept:,}"


def _status(rows: pd.DataFrame) -> Text:
    wrong = rows[rows["status"] != "converged"]
    if wrong.empty:
        return Text("ok", style="dim")
    if len(wrong) == len(rows) and wrong["status"].nunique() == 1:
        return Text(wrong["status"].iloc[0], style="red")
    return Text(", ".join(f"{r.checkpoint}: {r.status}" for r in wrong.itertuples()), style="red")


def _kept(frame: pd.DataFrame, best: pd.DataFrame, rows: int) -> set[int]:
    always = {*best["position"].tolist(), *frame.loc[frame["test_error"].isna(), "position"].tolist()}
    return {*evenly(sorted(set(frame["position"].tolist())), rows), *always}


def _caption(baselines: Mapping[str, Sequence[float]], kept: int, layers: int, shown: int, checkpoints: int) -> str:
    notes = [
        f"{name} {' and '.join(dict.fromkeys(percent_text(value, 1) for value in values))}"
        for name, values in baselines.items()
    ]
    notes.append("*: preferred by validation")
    if shown < checkpoints:
        notes.append(f"{shown} of {checkpoints} checkpoints")
    if kept < layers:
        notes.append(f"{kept} of {layers} layers, evenly over depth, with every preferred and every failed one")
    if kept < layers or shown < checkpoints:
        notes.append("all of them in results.csv")
    return "; ".join(notes)
