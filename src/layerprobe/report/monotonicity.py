"""Whether the test error falls with depth, in words."""

from __future__ import annotations

from layerprobe.formatting import percent_text
from layerprobe.report.tidy import monotonicity
from layerprobe.results.best import at_last_checkpoint, best_layer
from layerprobe.results.reader import Run


def depth_in_words(run: Run) -> str:
    """Say how the test error goes over depth at a run's last whole checkpoint.

    Args:
        run: The run.

    Returns:
        Where it begins and ends, what it is at the layer that validation prefers, how often it rises, by how much at
        most, and whether any rise is beyond the two 95 % intervals.
    """
    rows = at_last_checkpoint(run.results, run.unmerged)
    if rows.empty:
        return "No layer was probed."
    first, last = rows.iloc[0], rows.iloc[-1]
    start = (
        f"At {first['checkpoint']} the test error goes from {percent_text(first['test_error'])} ({first['layer']}) to "
        f"{percent_text(last['test_error'])} ({last['layer']})"
    )
    best = best_layer(run.results, run.unmerged)
    if best.layer:
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
