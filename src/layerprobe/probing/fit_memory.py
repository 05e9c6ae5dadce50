"""Memory of a fit: bytes that fitting a layer takes."""

from __future__ import annotations

from layerprobe.probing.solvers.l2_path import PAIR_BYTES
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.newton import newton_bytes
from layerprobe.probing.solvers.spectrum import decomposition_bytes

_FIXED = 600 * 2**20
"""Scores that a certificate keeps or, when it does not, the samples of a Hessian and the directions of its system; and
blocks of rows in float64."""


def workspace(d: int, c: int, p: int) -> int:
    """Count the bytes that solving one layer holds at a time, at most.

    Args:
        d: Features.
        c: Classes.
        p: L2 values.

    Returns:
        Bytes: the decomposition with its working copies, the curvature pairs, a Hessian, and the heads in both
        precisions.
    """
    return _FIXED + decomposition_bytes(d) + newton_bytes(d, c) + path_bytes(d, c, p)


def path_bytes(d: int, c: int, p: int) -> int:
    """Count the bytes of p heads of c classes and d features in both precisions, with the curvature pairs."""
    return min(PAIR_BYTES, 12 * Logistic.memory * c * d) + 24 * p * c * d
