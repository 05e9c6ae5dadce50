"""Altair's private name: for charts that are drawn without looking for mistakes in each of their parts.

Known for altair 5.5 to 6.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from altair.utils.schemapi import debug_mode


@contextmanager
def unchecked() -> Iterator[None]:
    """Let parts of charts be made without looking for mistakes in them, which takes longer than all the rest.

    For charts of which nothing is the reader's choice; `to_dict(validate=False)` does so for the whole of one. It
    decorates functions, too.
    """
    with debug_mode(False):
        yield
