"""Breaks of long names in narrow columns: behind their punctuation, not within a word."""

from __future__ import annotations

import re


def broken(name: str, width: int = 0) -> str:
    """Break a name into lines, such as `probe/` and `best_layer_` and `test_error`.

    Args:
        name: The name of a key, a metric or a layer.
        width: Letters of a line; a part that is longer has a line of its own, and all lines may be as long as that.
    """
    parts = re.findall(r"[^/._]+[/._]*|[/._]+", name)
    width = max([width, *map(len, parts)])
    lines = [""]
    for part in parts:
        if len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
