"""Names of checkpoints and layers: safe as names of files, printable in charts."""

from __future__ import annotations

import hashlib
import re

import pandas as pd

_LONGEST = 96


def safe_name(name: str) -> str:
    """Turn any name into one that every file system takes; different names stay different.

    Returns:
        The name itself where it is harmless; else a readable part of it and a hash of the whole.
    """
    plain = re.sub(r"[^A-Za-z0-9._#=+-]", "_", name)[:_LONGEST].lstrip(".") or "_"
    if plain == name:
        return name
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def printable(name: str) -> str:
    """Turn any name into one line that can be drawn, and stand inside an expression of Vega.

    Returns:
        The name; a blank for each line break and unusual blank, and "\ufffd" for each sign that has no shape.
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in name)


def with_printable_names(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a copy of rows in which the names of checkpoints and layers can be printed."""
    changed = [name for name in ("checkpoint", "layer") if not all(map(str.isprintable, rows[name].unique()))]
    return rows.assign(**{column: rows[column].map(printable).astype(rows[column].dtype) for column in changed})
