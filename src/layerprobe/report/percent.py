"""Shares as text: no negative zero, and nothing where there is no interval."""

from __future__ import annotations

import math


def plain(value: float, form: str = ".4g") -> str:
    """Write a number; one that is rounded to zero has no sign.

    Args:
        value: The number.
        form: A format of Python.

    Returns:
        The text; "–" for NaN.
    """
    if math.isnan(value):
        return "–"
    written = f"{value:{form}}"
    return written.lstrip("+-") if not any(digit in "123456789" for digit in written.partition("e")[0]) else written


def percent(value: float, digits: int = 2) -> str:
    """Write a share in percent; "–" for NaN."""
    return plain(value, f".{digits}%")


def interval(low: float, high: float, digits: int = 2) -> str:
    """Write the ends of an interval, such as "1.00% to 2.00%"; empty where there is none."""
    return "" if math.isnan(low) or math.isnan(high) else f"{percent(low, digits)} to {percent(high, digits)}"
