"""The table of a sweep, averaged over seeds."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from layerprobe.formatting import count_text, number_text, percent_text
from layerprobe.report.group_mean import group_mean
from layerprobe.report.tables.jobs_table import ABOUT
from layerprobe.report.tables.table_width import broken, first_that_fits

_ORDER = ("test", "probe", "val")
_MOST_METRICS = 5
YES_OR_NO = ("solved", "success")
"""Last parts of the names of metrics that are one draw of 0 or 1 in each job."""
_LONGEST = 16
"""Letters of a value that are never broken, in a terminal of any width."""


def sweep_table(
    jobs: pd.DataFrame,
    over: str = "seed",
    yes_or_no: Sequence[str] = YES_OR_NO,
    width: int | None = None,
) -> Table:
    """Lay out a sweep: a line for each setting, the mean and 95% interval of its metrics over the seeds.

    Args:
        jobs: One row for each job: a column for each overridden key (text) and each metric (numbers, NaN where a job
            has none), `status`, and perhaps `directory`, `best_layer` and `error`.
        over: The column that is averaged over.
        yes_or_no: Last parts of the names of metrics that say yes or no, 1 or 0: they are shown as rates.
        width: Letters on a line; by default the terminal's. Where it is too short, names are broken behind their
            punctuation, and then the last metrics are left out.

    Returns:
        The table, in order of first appearance: the text columns with more than one value tell settings apart, of the
        numeric ones five are averaged at most, test metrics first. Every status but "done" counts as failed. There is
        no interval where there is nothing to infer one from: one job, or a number that is the same in all.
    """
    texts, numbers = _sorted_columns(jobs, over)
    by = [name for name in texts if jobs[name].nunique(dropna=False) > 1]
    shown, total = numbers[:_MOST_METRICS], len(numbers)
    ways = [(False, len(shown)), *((True, n) for n in range(len(shown), 0, -1))]
    return first_that_fits(
        (_table(jobs, over, by, shown[:n], yes_or_no, total - n, narrow=narrow) for narrow, n in ways), width
    )


def _table(
    jobs: pd.DataFrame,
    over: str,
    by: Sequence[str],
    shown: Sequence[str],
    yes_or_no: Sequence[str],
    left_out: int,
    *,
    narrow: bool,
) -> Table:
    failed = jobs["status"].ne("done") if "status" in jobs else pd.Series(False, index=jobs.index)

    table = Table(box=box.SIMPLE_HEAD, title=f"Mean over {over}, 95% interval", title_justify="left", pad_edge=False)
    for name in by:
        longest = min(max(jobs[name].astype(str).map(len)), _LONGEST)
        header = broken(name, longest) if narrow else name
        table.add_column(Text(header), justify="right", overflow="fold", min_width=longest)
    table.add_column("jobs", justify="right")
    if failed.any():
        table.add_column("failed", justify="right", style="red")
    columns = []
    for name in shown:
        values = jobs.assign(**{name: jobs[name].astype(float)})
        rate = name.rsplit("/", 1)[-1] in yes_or_no and bool(values[name].dropna().isin((0.0, 1.0)).all())
        columns.append([_mean(row, rate) for row in group_mean(values, name, by, yes_or_no=rate).to_dict("records")])
        longest = max(map(len, columns[-1]))
        header = broken(name, longest) if narrow else name
        table.add_column(Text(header), justify="right", overflow="fold", min_width=longest)
    groups = list(jobs.groupby(list(by), sort=False, dropna=False)) if by else [((), jobs)]
    for i, (key, group) in enumerate(groups):
        line = [*map(str, key), str(len(group))]
        if failed.any():
            line.append(str(failed[group.index].sum() or ""))
        table.add_row(*map(Text, line), *(Text(column[i]) for column in columns))
    if left_out:
        table.caption, table.caption_justify = f"{count_text(left_out, 'more metric')} in sweep.csv", "left"
    return table


def _sorted_columns(jobs: pd.DataFrame, over: str) -> tuple[list[str], list[str]]:
    """Name the text columns, which are overrides, and the numeric ones, which are metrics."""
    free = [name for name in jobs.columns if name not in (*ABOUT, over)]
    numbers = [name for name in free if pd.api.types.is_numeric_dtype(jobs[name])]
    numbers.sort(key=lambda name: next((i for i, start in enumerate(_ORDER) if name.startswith(start)), len(_ORDER)))
    return [name for name in free if name not in numbers], numbers


def _mean(row: Mapping[Hashable, Any], rate: bool) -> str:
    mean, low, high = row["mean"], row["low"], row["high"]
    if math.isnan(low):
        return percent_text(mean, 0) if rate else number_text(mean)
    if rate:
        return f"{percent_text(mean, 0)} [{percent_text(low, 0)}, {percent_text(high, 0)}]"
    return f"{number_text(mean)} ±{high - mean:.2g}"
