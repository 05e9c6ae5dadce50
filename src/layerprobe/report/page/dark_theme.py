"""Dark theme of heat maps: their cells keep their colours, so that dark stands for the same, and the letters follow."""

from __future__ import annotations

from typing import Any

from layerprobe.report import style

DARK = "dark"
"""The parameter that says whether the reader's theme is dark."""

_BY_NIGHT = {style.INK: "#e4e4e4", style.QUIET: "#a2a2a2", style.FAINT: "#2c2c2c", "white": "#141414"}


def following_theme(spec: dict[str, Any]) -> dict[str, Any]:
    """Let a heat map follow the reader's theme.

    The page turns the colours of other charts over in the dark. Of a heat map's cells this would make the dark ones
    light, which stand for a high error.

    Returns:
        The same with the parameter `DARK`, by which paper, lines, letters and empty cells have their colours. Cells,
        and the figures in them, keep theirs.
    """
    return _followed(spec) | {"params": [*spec.get("params", []), {"name": DARK, "value": False}]}


def _followed(part: Any) -> Any:
    if isinstance(part, list):
        return [_followed(one) for one in part]
    if not isinstance(part, dict):
        return part
    found = {}
    for key, value in part.items():
        painted = key in ("fill", "stroke", "background") or key.lower().endswith("color")
        if painted and isinstance(value, str) and value in _BY_NIGHT:
            found[key] = {"expr": f"{DARK} ? '{_BY_NIGHT[value]}' : '{value}'"}
        else:
            found[key] = value if key in ("datasets", "data") else _followed(value)
    return found
