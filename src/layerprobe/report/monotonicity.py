"""Monotonicity: whether the test error falls with depth, and where it rises, as a table and in words."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerprobe.files.safe_names import with_printable_names
from layerprobe.formatting import percent_text
from layerprobe.results.reader import Run

_COLUMNS = ["checkpoint", "step", "depth", "layer", "test_error", "test_error_low", "test_error_high"]


def monotonicity(results: pd.DataFrame) -> pd.DataFrame:
    """Find where the test error rises from one probed layer to the next; failed layers are passed over.

    Returns:
        One row for each rise: `checkpoint`, `step`, `depth_before`, `layer_before`, `depth`, `layer`, `error_before`,
        `error`, `rise` (difference of the two, a share), `with_interval`: whether both errors have a 95 % interval, and
        `beyond_interval`: whether these are apart, which is stricter than a test of their difference.
    """
    frame = with_printable_names(results.loc[results["test_error"].notna(), _COLUMNS])
    frame = frame.sort_values(["step", "depth"], kind="stable", ignore_index=True)
    # Rows one behind the other in the order of their checkpoints are neighbours in depth where these are equal.
    checkpoints, errors = frame["checkpoint"].factorize()[0], frame["test_error"].to_numpy()
    order = np.argsort(checkpoints, kind="stable")
    above, below = order[:-1], order[1:]
    rises = (checkpoints[above] == checkpoints[below]) & (errors[above] < errors[below])
    above, below = above[rises], below[rises]
    places = np.argsort(below)
    frame, before = (frame.iloc[rows[places]].reset_index(drop=True) for rows in (below, above))
    return pd.DataFrame(
        {
            "checkpoint": frame["checkpoint"],
            "step": frame["step"],
            "depth_before": before["depth"],
            "layer_before": before["layer"],
            "depth": frame["depth"],
            "layer": frame["layer"],
            "error_before": before["test_error"],
            "error": frame["test_error"],
            "rise": frame["test_error"] - before["test_error"],
            "with_interval": frame["test_error_low"].notna() & before["test_error_high"].notna(),
            "beyond_interval": frame["test_error_low"] > before["test_error_high"],
        }
    )


def depth_sentence(run: Run) -> str:
    """Say how the test error goes over depth at a run's last whole checkpoint.

    Returns:
        Where it begins and ends, what it is at the layer that validation prefers, how often it rises, by how much at
        most, and whether any rise is beyond the two 95 % intervals.
    """
    rows = run.last_rows
    if rows.empty:
        return "No layer was probed."
    first, last = rows.iloc[0], rows.iloc[-1]
    if len(rows) > 1 and rows["test_error"].nunique() == 1:
        return f"At {first['checkpoint']} the test error is {percent_text(first['test_error'])} at every layer."
    start = (
        f"At {first['checkpoint']} the test error goes from {percent_text(first['test_error'])} ({first['layer']}) to "
        f"{percent_text(last['test_error'])} ({last['layer']})"
    )
    best = run.best_layer
    if best.layer and len(rows) > 1 and rows["val_error"].nunique() == 1:
        start += "; on validation all layers have the same error"
    elif best.layer:
        start += f"; validation prefers {best.layer} ({percent_text(best.test_error)})"
    start += "."
    rises = monotonicity(rows)
    if rises.empty:
        return f"{start} It never rises from one layer to the next."
    beyond, known = rises[rises["beyond_interval"]], rises["with_interval"]
    highest = rises.iloc[int(rises["rise"].argmax())]
    times = "once" if len(rises) == 1 else f"{len(rises)} times"
    most = (
        f"It rises {times}, at most by {100 * highest['rise']:.2f} points "
        f"({highest['layer_before']} to {highest['layer']})"
    )
    if beyond.empty and not known.all():
        without = "no interval" if not known.any() else "an interval is missing"
        return f"{start} {most} ({without}, so nothing is said of chance)."
    if beyond.empty:
        return f"{start} {most}, never beyond the 95% intervals."
    where = ", ".join(
        f"{row['layer_before']} to {row['layer']} (+{100 * row['rise']:.2f})" for row in beyond.to_dict("records")
    )
    return f"{start} {most}; beyond the 95% intervals: {where}."
