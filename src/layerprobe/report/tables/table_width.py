"""Width of tables of a terminal: what they need, and what there is."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table


def needed_width(table: Table) -> int:
    """Letters of a table's longest line, where nothing in it is broken."""
    return Console(width=1000).measure(table).maximum


def first_that_fits(tables: Iterable[Table], width: int | None = None) -> Table:
    """The first of one or more tables whose lines have room on a line of `available_width`; else the last."""
    available = available_width(width)
    for table in tables:
        if needed_width(table) <= available:
            break
    return table


def available_width(width: int | None = None) -> int:
    """Letters that there are on a line."""
    return shutil.get_terminal_size().columns if width is None else width
