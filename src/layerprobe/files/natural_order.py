"""Natural order of paths: folder by folder, and numbers in a name by their value."""

from __future__ import annotations

import re
from pathlib import Path


def natural_order(path: Path) -> tuple[tuple[tuple[int, str], ...], ...]:
    """Return the key by which `step_9` comes before `step_10`, and numbers before words."""
    parts = (re.split(r"(\d+)", name) for name in path.parts)
    return tuple(tuple((int(part), "") if part.isdecimal() else (-1, part) for part in name) for name in parts)
