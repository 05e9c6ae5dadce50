"""Choose names by glob patterns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from types import MappingProxyType

from layerprobe.formatting import listed

SHOWN = 12
"""How many names an error lists."""


def matches(name: str, pattern: str) -> bool:
    """Tell whether a name is the pattern, or matches it as a glob (`*`, `?`, `[…]`; `*` spans dots)."""
    return name == pattern or fnmatchcase(name, pattern)


def as_patterns(patterns: str | Sequence[str]) -> tuple[str, ...]:
    """Return patterns as a tuple; a string is one pattern."""
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def select(
    groups: Sequence[tuple[str, ...]],
    include: str | Sequence[str],
    exclude: str | Sequence[str],
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> list[tuple[str, ...]]:
    """Choose those that are wanted of each group of names of one thing: none if the thing is not wanted.

    A thing is wanted if one of its names, the main one first, matches `include`, and the first one that does is not
    matched by `exclude`. What is left out, and why, is for the error.

    Raises:
        ValueError: A pattern matches no name.
    """
    include, exclude = as_patterns(include), as_patterns(exclude)
    names = [name for group in groups for name in group]
    for argument, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(matches(name, pattern) for name in names):
                if reasons := {name: reason for name, reason in left_out.items() if matches(name, pattern)}:
                    raise ValueError(_left_out(argument, pattern, reasons))
                raise ValueError(_no_match(argument, pattern, [group[0] for group in groups], names))
    wanted = []
    for group in groups:
        included = [name for name in group if any(matches(name, pattern) for pattern in include)]
        excluded = [name for name in included if any(matches(name, pattern) for pattern in exclude)]
        keep = included and included[0] not in excluded
        wanted.append(tuple(name for name in included if name not in excluded) if keep else ())
    return wanted


def _left_out(argument: str, pattern: str, reasons: Mapping[str, str]) -> str:
    shown = listed([f"{name} {reason}" for name, reason in reasons.items()], SHOWN, "; ")
    return (
        f"the pattern {pattern!r} ({argument}) matches no layer, only what is left out: {shown}. "
        "layerprobe.layers(network, inputs) lists all layers, and what is left out."
    )


def _no_match(argument: str, pattern: str, main: list[str], names: list[str]) -> str:
    close = get_close_matches(pattern.strip("*"), names, n=5, cutoff=0.5)
    return (
        f"no layer matches the pattern {pattern!r} ({argument}). "
        + (f"Similar: {', '.join(close)}. " if close else "")
        + f"The {len(main)} layers: {listed(main, SHOWN)}. "
        "A pattern has to match the whole name (`*` spans dots, as in `layer1.*`); functional operations are layers "
        "with granularity='ops' only."
    )
