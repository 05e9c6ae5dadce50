"""Width of tables of a terminal: what they need, what there is, and long names in narrow columns."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table


def needed_width(table: Table) -> int:
    """Count the letters of a table's longest line, where nothing in it is broken."""
    return Console(width=1000).measure(table).maximum


def first_that_fits(tables: Iterable[Table], width: int | None = None) -> Table:
    """Choose the first of one or more tables whose lines have room on a line of `available_width`; else the last."""
    available = available_width(width)
    for table in tables:
        if needed_width(table) <= available:
            break
    return table


def available_width(width: int | None = None) -> int:
    """Count the letters that there are on a line."""
    return shutil.get_terminal_size().columns if width is None else width


def broken(name: str, width: int = 0) -> str:
    """Break a name behind its punctuation into lines, such as `probe/` and `best_layer_` and `test_error`.

    Lines have at most `width` letters, or as many as the longest part of the name.
    """
    parts = re.findall(r"[^/._]+[/._]*|[/._]+", name)
    width = max([width, *map(len, parts)])
    lines = [""]
    for part in parts:
        if len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
