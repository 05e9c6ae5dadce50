"""Precision of a fit: float32 products without TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from layerprobe.probing.capture.global_flags import one_thread_at_a_time

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
    with one_thread_at_a_time():
        before = getattr(matmul, name)
        setattr(matmul, name, full)
        try:
            yield
        finally:
            # What was taken over from `torch.backends.fp32_precision` has to follow that again.
            setattr(matmul, name, unset)
            if getattr(matmul, name) != before:
                setattr(matmul, name, before)
