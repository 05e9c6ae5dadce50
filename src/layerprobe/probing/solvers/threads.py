"""Threads of a fit: as many of the CPU's as a problem is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORTH = 1e9
"""Floating-point operations of one evaluation below which a second thread costs more in waiting than it brings."""


def evaluation_operations(n: int, d: int, c: int, p: int) -> float:
    """Count the operations of one evaluation of a whole path.

    Args:
        n: Samples.
        d: Features.
        c: Classes.
        p: L2 values.
    """
    return 4.0 * n * d * c * p


def threads(operations: float) -> int:
    """Count the threads that a problem is worth.

    Args:
        operations: Floating-point operations of one evaluation.
    """
    return 1 if operations < WORTH else torch.get_num_threads()


@contextmanager
def threads_for(operations: float) -> Iterator[None]:
    """Use one thread for a small problem, all of them for a large one.

    Small problems make many short parallel regions. Their threads wait for each other by spinning, and where other
    processes want the same cores, one evaluation takes as long as a time slice instead of milliseconds.

    Args:
        operations: Floating-point operations of one evaluation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads(operations))
    try:
        yield
    finally:
        torch.set_num_threads(before)
