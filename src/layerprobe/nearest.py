"""Names that are near to one that there is not."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which of the known names may have been meant.

    Args:
        word: What was given.
        known: The names that there are.

    Returns:
        A sentence with the nearest names, then all of them where they are few; empty where there are none.
    """
    names = sorted(set(known))
    near = get_close_matches(word, names, n=3, cutoff=0.7)
    said = f"Did you mean {' or '.join(near)}? " if near else ""
    few = f"Choose one of: {', '.join(names)}." if names and (len(names) <= 20 or not near) else ""
    return (said + few).strip()
