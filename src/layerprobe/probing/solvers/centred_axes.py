"""Features of mixed scales about their means, in axes that float64 resolves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.features.row_blocks import AbstractRows, Features, blocks
from layerprobe.probing.solvers.spectrum import LARGEST

FLOOR = 1e-14
"""Least eigenvalue of a covariance that is told from rounding, over the largest."""

_SPREAD = 10.0
"""Ratio of scales up to which features count as of one scale, and of a mean to its deviation."""

_BLOCK = 1 << 22
"""Elements in float64 at a time: 32 MiB."""


class CentredRows(AbstractRows):
    """Rows less a mean, in float64.

    Args:
        rows: Where they come from.
        mean: What is subtracted, float64.
    """

    def __init__(self, rows: Features, mean: Float[Tensor, " d"]) -> None:
        self.rows, self.mean = rows, mean
        self.shape, self.dtype, self.device = (len(rows), rows.shape[1]), torch.float64, rows.device

    def __getitem__(self, rows: slice) -> Float[Tensor, "k d"]:
        """See `AbstractRows.__getitem__`."""
        return self.rows[rows].double() - self.mean


@dataclass(frozen=True)
class Centred:
    r"""Samples about their mean, with the axes of their covariance.

    Single precision resolves eigenvalues of XᵀX/n down to 1e-6 of the largest. Features whose scales differ by a factor
    of a thousand, or whose means are large, have directions beneath that. There the fit crawls: it ends close to the
    optimum, with a gradient that proves nothing. About the means the weights of a head are the same, and so is their
    penalty, with the bias b + Wx̄; the covariance in float64 resolves scales that differ by up to 1e7.

    Attributes:
        rows: The samples about their mean.
        mean: Their mean, float64.
        values: Eigenvalues of the covariance in ascending order, float64.
        axes: Its eigenvectors in columns, float64.
    """

    rows: CentredRows
    mean: Float[Tensor, " d"]
    values: Float[Tensor, " d"]
    axes: Float[Tensor, "d d"]

    @classmethod
    def of(cls, features: Features) -> Centred | None:
        """Decompose samples.

        Returns:
            The decomposition; None where the features are of one scale about zero, as standardised ones are, which need
            none, or too many for one.
        """
        n, d = features.shape
        if d > LARGEST:
            return None
        mean = torch.zeros(d, dtype=torch.float64, device=features.device)
        for part in blocks(features, _BLOCK):
            mean += part.sum(0, dtype=torch.float64) / n
        rows = CentredRows(features, mean)
        covariance = torch.zeros(d, d, dtype=torch.float64, device=features.device)
        for part in blocks(rows, _BLOCK):
            covariance += part.T @ part / n
        scale = covariance.diagonal().sqrt()
        varying = scale > 0
        if not varying.any():
            return None
        scale, offset = scale[varying], mean[varying].abs()
        if float(scale.max()) <= _SPREAD * float(scale.min()) and bool((offset <= _SPREAD * scale).all()):
            return None
        values, axes = torch.linalg.eigh(covariance)
        return cls(rows, mean, values.clamp(min=0), axes)
