"""The table of a sweep's jobs, a line each."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from layerprobe.report.tables.status_table import STATUS_STYLE
from layerprobe.report.tables.table_width import broken, first_that_fits

ABOUT = ("directory", "status", "best_layer", "error")
"""Columns of a sweep's jobs that are neither overrides nor metrics."""

_ERROR = "probe/best_layer_test_error"
_LONGEST = 16
"""Letters of a line of a layer's name in a narrow table."""


def jobs_table(jobs: pd.DataFrame, width: int | None = None) -> Table:
    """Lay out a sweep: a line for each job.

    Args:
        jobs: One row for each job: `directory`, `status`, `best_layer`, `error`, a column for each overridden key
            (text) and each metric (numbers).
        width: Letters on a line; by default the terminal's. Where a job does not fit on one, names of layers are
            broken behind their punctuation, and what went wrong is below the table.

    Returns:
        The table: what tells the jobs apart, status, best layer, its test error, its directory in the folder that the
        title names, and the first line of what went wrong.
    """
    return first_that_fits((_table(jobs, narrow=narrow) for narrow in (False, True)), width)


def _table(jobs: pd.DataFrame, *, narrow: bool) -> Table:
    keys = [name for name in jobs.columns if name not in ABOUT and not pd.api.types.is_numeric_dtype(jobs[name])]
    varied = [name for name in keys if jobs[name].nunique(dropna=False) > 1]
    folder = os.path.commonpath([Path(one).parent for one in jobs["directory"]]) if len(jobs) else "."
    title = Text(f"Jobs in {_short(folder)}")
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    table.add_column("job", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("best layer", overflow="fold", no_wrap=narrow)
    table.add_column("test\nerror" if narrow else "test error", justify="right", no_wrap=True)
    table.add_column("directory", overflow="fold", no_wrap=narrow)
    beside = jobs["error"].ne("").any() and not narrow
    if beside:
        table.add_column("what went wrong", overflow="fold")
    for row in jobs.to_dict("records"):
        what = " ".join(f"{name}={row[name]}" for name in varied if isinstance(row[name], str)) or "–"
        error = row.get(_ERROR, float("nan"))
        cells = [
            Text(what),
            Text(row["status"], style=STATUS_STYLE.get(row["status"], "")),
            Text((broken(row["best_layer"], _LONGEST) if narrow else row["best_layer"]) or "–"),
            Text("–" if error != error else f"{error:.4g}"),
            Text(os.path.relpath(row["directory"], folder)),
        ]
        table.add_row(*cells, *([Text(row["error"])] if beside else []))
    if narrow:
        wrong = jobs[jobs["error"].ne("")]
        reasons = zip(wrong["directory"], wrong["error"], strict=True)
        table.caption = Text("\n".join(f"{os.path.relpath(at, folder)}: {reason}" for at, reason in reasons))
        table.caption_justify = "left"
    return table


def _short(directory: str) -> str:
    """Shorten a path to one relative to the current folder, if that is shorter."""
    return min(directory, os.path.relpath(Path(directory)), key=len)
