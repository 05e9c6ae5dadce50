"""Messages: numbers as text, the names nearest to one that does not exist, and which errors are messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}

_MOST_NAMES = 20


def size_text(n_bytes: int | float) -> str:
    """Write a number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def count_text(n: int, noun: str) -> str:
    """Write a number of things; `noun` is the word for one of them, whose plural ends in s, or in es after an s."""
    return f"{n:,} {noun}{'' if n == 1 else 'es' if noun.endswith('s') else 's'}"


def n_bytes(text: str) -> float:
    """Read a number of bytes, such as `8e9`, `500 MB` or `8GiB`; NaN where it is none."""
    digits = text.strip().upper().rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text.strip().upper()[len(digits) :].strip().removesuffix("B")
    try:
        return float(digits) * _UNITS.get(unit, math.nan)
    except ValueError:
        return math.nan


def listed(parts: Sequence[str], most: int, between: str = ", ") -> str:
    """List the first of some things, and say how many more there are."""
    rest = [f"… ({len(parts) - most:,} more)"] if len(parts) > most else []
    return between.join([*parts[:most], *rest])


def time_text(seconds: int | float) -> str:
    """Write a duration; a question mark for NaN."""
    if math.isnan(seconds):
        return "?"
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 100:
        return f"{seconds:.2g} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 86400:.0f} days"


def described(value: Any) -> str:
    """Say what a value is that is of no use: the type and shape of a tensor or array, else the class."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def number_text(value: float, form: str = ".4g") -> str:
    """Write a number, "–" for NaN; one that is rounded to zero has no sign."""
    if math.isnan(value):
        return "–"
    written = f"{value:{form}}"
    return written.lstrip("+-") if not any(digit in "123456789" for digit in written.partition("e")[0]) else written


def percent_text(value: float, digits: int = 2) -> str:
    """Write a share in percent; "–" for NaN."""
    return number_text(value, f".{digits}%")


def interval_text(low: float, high: float, form: str = ".2%") -> str:
    """Write the ends of an interval, such as "1.00% to 2.00%"; "–" where there is none."""
    return "–" if math.isnan(low) or math.isnan(high) else f"{number_text(low, form)} to {number_text(high, form)}"


def interval_texts(lows: Iterable[float], highs: Iterable[float], form: str = ".2%") -> list[str]:
    """Write several intervals, as `interval_text`."""
    return [interval_text(*ends, form) for ends in zip(lows, highs, strict=True)]


def nearest(word: str, known: Iterable[str], most: int = _MOST_NAMES) -> str:
    """Say which of the known names may have been meant.

    Args:
        word: What was given.
        known: The names that there are.
        most: How many of them are few enough to be listed.

    Returns:
        A sentence with the nearest names, then all of them where they are few, or the first where they are many and
        none is near; empty where there are none.
    """
    names = sorted(set(known))
    near = get_close_matches(word, names, n=3, cutoff=0.7)
    said = f"Did you mean {' or '.join(near)}? " if near else ""
    if not names or (near and len(names) > most):
        return said.strip()
    more = f", … ({len(names):,} in all)" if len(names) > most else ""
    return f"{said}Choose one of: {', '.join(names[:most])}{more}."


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says; the name of its class where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def one_line(error: BaseException) -> str:
    """Return what an error says as one line of at most 300 letters."""
    return " ".join(str(error).split())[:300]


def is_message(error: BaseException) -> bool:
    """Tell whether an error is a message of this package: of a kind that carries one, and raised by its own code."""
    if not isinstance(error, ValueError | TypeError | LookupError | RuntimeError | ImportError):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] == "layerprobe" and not isinstance(error, KeyError | IndexError)
