"""Whether the test error falls with depth, in words."""

from __future__ import annotations

from layerprobe.report.comparison import last_whole_checkpoint
from layerprobe.report.frames import monotonicity
from layerprobe.results.run import Run


def depth_in_words(run: Run) -> str:
    """Say how the test error goes over depth at a run's last whole checkpoint.

    Args:
        run: The run.

    Returns:
        Where it begins and ends, where it is lowest, how often it rises, by how much at most, and whether any rise is
        beyond the two 95 % intervals.
    """
    checkpoint = last_whole_checkpoint(run)
    rows = run.results[(run.results["checkpoint"] == checkpoint) & run.results["test_error"].notna()]
    if rows.empty:
        return "No layer was probed."
    rows = rows.sort_values("depth", kind="stable")
    first, last, lowest = rows.iloc[0], rows.iloc[-1], rows.iloc[int(rows["test_error"].argmin())]
    start = (
        f"At {checkpoint} the test error goes from {first['test_error']:.2%} ({first['layer']}) to "
        f"{last['test_error']:.2%} ({last['layer']}); it is lowest at {lowest['layer']} ({lowest['test_error']:.2%})."
    )
    rises = monotonicity(rows)
    if rises.empty:
        return f"{start} It never rises from one layer to the next."
    beyond = rises[rises["beyond_interval"]]
    highest = rises.iloc[int(rises["rise"].argmax())]
    times = "once" if len(rises) == 1 else f"{len(rises)} times"
    most = (
        f"It rises {times}, at most by {100 * highest['rise']:.2f} points "
        f"({highest['layer_before']} to {highest['layer']})"
    )
    if beyond.empty:
        return f"{start} {most}, never beyond the 95% intervals."
    where = ", ".join(
        f"{row['layer_before']} to {row['layer']} (+{100 * row['rise']:.2f})" for row in beyond.to_dict("records")
    )
    return f"{start} {most}; beyond the 95% intervals: {where}."
