"""Labels of layers: names that are short enough for an axis and still tell the layers apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

_LONGEST = 30


def shared_folder(names: Sequence[str]) -> str:
    """Find the modules that all nested layers lie in, where dropping them makes long names readable.

    Args:
        names: Names of the layers.

    Returns:
        Their common path, such as "bert.encoder.layer"; empty where the names are short or share none.
    """
    nested = [name for name in names if "." in name]
    if len(nested) < 2 or max(map(len, nested)) <= _LONGEST:
        return ""
    parts = [name.split(".")[:-1] for name in nested]
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return ".".join(level[0] for level in shared)


def short_names(names: Sequence[str]) -> list[str]:
    """Shorten layer names for an axis: drop the shared folder, then the middle of what is still too long.

    Args:
        names: Names of the layers.

    Returns:
        A name of at most 30 characters for each; an ellipsis stands for a dropped middle.
    """
    shared = shared_folder(names)
    return [clipped(name.removeprefix(f"{shared}.") if shared else name, _LONGEST) for name in names]


def clipped(name: str, longest: int) -> str:
    """Drop the middle of a long name; its end tells layers apart, so more of the end stays.

    Args:
        name: Any name.
        longest: Letters to keep at most, the ellipsis among them.

    Returns:
        The name, or its two ends around an ellipsis.
    """
    tail = 2 * longest // 3
    if len(name) <= longest:
        return name
    return f"{name[: longest - tail - 1].rstrip('._')}…{name[-tail:].lstrip('._')}"
