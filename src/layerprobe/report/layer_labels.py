"""Labels of layers: names that are short enough for an axis and still tell the layers apart."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

_LONGEST = 30
_STEM_AND_NUMBER = re.compile(r"(.*?)((?:\d\w{0,3})?)")
_FEWEST, _LEAST = 2, 8
"""Letters of a module's name, and of a layer's own, that a shortened name keeps at least."""


def shared_folder(names: Sequence[str]) -> str:
    """Find the modules that all nested layers lie in, where dropping them makes long names readable.

    Returns:
        Their common path, such as "bert.encoder.layer"; empty where the names are short or share none.
    """
    nested = [name for name in names if "." in name]
    if len(nested) < 2 or max(map(len, nested)) <= _LONGEST:
        return ""
    parts = [name.split(".")[:-1] for name in nested]
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return ".".join(level[0] for level in shared)


def short_names(names: Sequence[str], longest: int = _LONGEST) -> list[str]:
    """Shorten layer names for an axis; an ellipsis stands for what is dropped.

    Dropped are the shared folder, then of what is still too long the ends of the modules' names, whose numbers stay,
    then the middle.
    """
    shared = shared_folder(names)
    own = [name.removeprefix(f"{shared}.") if shared else name for name in names]
    return [name if len(name) <= longest else _fitted(_abbreviated(name, longest), longest) for name in own]


def _abbreviated(name: str, longest: int) -> str:
    """Keep as many first letters of each module that a layer lies in as there is room for, and their numbers."""
    *outer, last = name.split(".")
    parts = [match.groups() for match in map(_STEM_AND_NUMBER.fullmatch, outer) if match]
    for letters in range(longest, _FEWEST - 1, -1):
        kept = [f"{stem[:letters]}…{number}" if len(stem) > letters + 1 else stem + number for stem, number in parts]
        name = ".".join([*kept, last]).replace("….", "…")
        if len(name) <= longest:
            break
    return name


def _fitted(name: str, longest: int) -> str:
    """Drop the middle of a layer's own name where that is enough, else the middle of the whole."""
    outer, dot, last = name.rpartition("." if "." in name else "…")
    room = longest - len(outer + dot)
    return f"{outer}{dot}{clipped(last, room)}" if room >= _LEAST else clipped(name, longest)


def clipped(name: str, longest: int) -> str:
    """Drop the middle of a long name; its end tells layers apart, so more of the end stays."""
    tail = 2 * longest // 3
    if len(name) <= longest:
        return name
    return f"{name[: longest - tail - 1].rstrip('._')}…{name[-tail:].lstrip('._')}"
