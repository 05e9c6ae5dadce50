"""The table of what the jobs of a sweep are doing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from layerprobe.formatting import count_text

STATUS_STYLE = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "killed": "red",
    "lost": "red",
    "interrupted": "yellow",
    "unreadable": "red",
}
"""How the status of a job is coloured in every table."""


def status_table(states: Sequence[tuple[str, str, str]]) -> Table:
    """Lay out the jobs: a line each, and how many there are in each state.

    Of each job there are its name, its state, and how far it is or what went wrong.
    """
    counts = Counter(state for _, state, _ in states)
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title = f"{count_text(len(states), 'job')}: " + ", ".join(f"{n} {name}" for name, n in counts.items())
    table.add_column("job", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("progress", overflow="fold")
    for name, state, where in states:
        table.add_row(Text(name), Text(state, style=STATUS_STYLE.get(state, "")), Text(where))
    return table
