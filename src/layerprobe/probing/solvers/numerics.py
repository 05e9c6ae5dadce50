"""Numerics of a fit: float32 products without TF32, and as many CPU threads as a problem is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LEGACY = ("allow_tf32", False, False)
"""Before torch 2.9: the flag, its exact value, and the one it has if nobody sets it."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep a GPU from rounding float32 products to TF32, whatever the user allows networks to do.

    With 11 bits of each number a fit comes to a stand about 1e-3 above its optimum and has to be finished in float64:
    on an H100, 1,000 classes × 2,048 features × 50,000 samples took twice as long. The product itself is faster there,
    but little else of an evaluation is.
    """
    matmul = torch.backends.cuda.matmul
    name, full, unset = ("fp32_precision", "ieee", "none") if hasattr(matmul, "fp32_precision") else _LEGACY
    before = getattr(matmul, name)
    setattr(matmul, name, full)
    try:
        yield
    finally:
        # What was taken over from `torch.backends.fp32_precision` has to follow that again.
        setattr(matmul, name, unset)
        if getattr(matmul, name) != before:
            setattr(matmul, name, before)


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
    """How many threads a problem is worth.

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
