"""Spectrum of the features' Gram matrix: the preconditioner of every L2 value at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features, blocks, some_rows
from layerprobe.probing.solvers.precision import full_precision
from layerprobe.probing.solvers.range_finder import low_rank
from layerprobe.probing.solvers.subspace import AbstractSpan, SampleSpan, kernel

LARGEST = 6144
"""Largest matrix that is decomposed, about a minute on two cores; beyond it a sample of the rows is."""

WIDEST = 2048
"""Features of more samples up to which a CPU decomposes the Gram matrix; beyond it a sample of the rows is as good.

Measured on layers of 3,136 to 4,096 features and 10,000 samples: as many evaluations, each cheaper, and a decomposition
of 0.9 s for 3 to 8 s. A GPU takes 0.1 s for 4,096 features.
"""

SAMPLE = 2048
"""Rows of that sample."""


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of the features' Gram matrix XᵀX/n, in one of four forms.

    - few dimensions hold all samples: the problem is solved in that `span`, whatever n and d are.
    - d ≤ n and not many: from the d × d Gram matrix, to float32's accuracy, which is enough to precondition.
    - d > n: the n × n matrix XXᵀ holds the whole problem, which is solved in the `span` of the samples. On a CPU their
      coordinates are found at once, the eigenvalues by `in_axes`.
    - beyond `LARGEST`, or `WIDEST` on the CPU: the leading axes of a sample of the rows, and one value for all other
      directions (Frangella, Tropp & Udell, 2023, precondition so). The values along the axes are measured on other
      rows: by itself the sample takes its noise for variance.

    Attributes:
        values: Eigenvalues in ascending order, none below 0; None where they are not known yet.
        vectors: Eigenvectors in columns; None where d > n, whose axes are those of the span.
        rest: Eigenvalue in the directions beside `vectors`.
        span: The samples in their span, where that is smaller than the features; None otherwise.
    """

    values: Float[Tensor, " r"] | None
    vectors: Float[Tensor, "d r"] | None
    rest: float = 0.0
    span: AbstractSpan | None = None

    @property
    def narrow(self) -> bool:
        """Whether few dimensions hold all samples, up to rounding."""
        return self.span is not None and self.vectors is not None

    @property
    def finite(self) -> bool:
        """Whether the features are."""
        return self.values is None or bool(self.values.isfinite().all())

    def fitted(self, features: Features) -> Float[Tensor, "n r"] | Features:
        """Choose what a head is fitted to: the samples' coordinates where they have a span, or the features."""
        return features if self.span is None else self.span.coordinates

    @classmethod
    def of(cls, features: Features) -> Spectrum:
        """Decompose standardised features.

        Args:
            features: Standardised features.

        Returns:
            The spectrum; its values are NaN where the features are not finite.
        """
        n, d = features.shape
        within = d > n and n <= LARGEST
        found = None if within else low_rank(features, decomposition_bytes(d))
        if found is not None:
            values = found.coordinates.square().mean(0, dtype=torch.float64).to(features.dtype)
            return cls(values, found.axes.to(features.dtype), 0.1 * float(values[0]), found)
        return cls.in_all_axes(features)

    @classmethod
    @full_precision()
    def in_all_axes(cls, features: Features) -> Spectrum:
        """Decompose standardised features as if no fewer dimensions held them.

        Args:
            features: Standardised features.

        Returns:
            The spectrum; its values are NaN where the features are not finite.
        """
        n, d = features.shape
        if sampled(n, d, features.device):
            return cls.of_sample(features)
        if d > n:
            return cls._of_rows(features)
        gram = torch.zeros(d, d, dtype=torch.float64, device=features.device)
        for rows in blocks(features, max(4096 * d, 1)):
            gram += rows.T @ rows
        gram /= n
        if not torch.isfinite(gram).all():
            return _unknown(features)
        values, vectors = _decomposed(gram, features.dtype)
        return cls(values.clamp(min=0), vectors)

    @classmethod
    def _of_rows(cls, features: Features) -> Spectrum:
        n, products = len(features), kernel(features)
        if not products.isfinite().all():
            return _unknown(features)
        if features.device.type == "cpu":
            return cls(None, None, span=SampleSpan.of(products))
        values, left = torch.linalg.eigh(products / n)
        kept = values > 1e-13 * values[-1]
        if not kept.any():
            kept[-1] = True
        values, left = values[kept].clamp(min=torch.finfo(torch.float64).tiny), left[:, kept]
        scale = (n * values).sqrt()
        return cls(values, None, span=SampleSpan(left * scale, left / scale))

    @cached_property
    def in_axes(self) -> Spectrum:
        """The same with its eigenvalues, and the span along its axes, also where d > n.

        To precondition, single precision is enough; Newton's steps need none of it, and it takes longest.
        """
        if not isinstance(self.span, SampleSpan) or self.values is not None:
            return self
        coordinates = self.span.coordinates
        values, turn = _decomposed(coordinates.T @ coordinates / len(coordinates), torch.float32)
        return Spectrum(values.clamp(min=0).double(), None, span=self.span.turned(turn.double()))

    @classmethod
    def of_sample(cls, features: Features, size: int = SAMPLE) -> Spectrum:
        """Return the leading axes of a sample of the rows, whatever the features' number.

        Args:
            features: Standardised features.
            size: Rows of the sample; half as many axes are kept.

        Returns:
            The spectrum; its values are NaN where the features are not finite.
        """
        n, d = features.shape
        size = min(size, n // 2)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        first, second = (some_rows(features, order[i * size : (i + 1) * size]) for i in range(2))
        kernel, trace = first @ first.T / size, float(second.square().sum()) / size
        if not (torch.isfinite(kernel).all() and trace < float("inf")):
            return _unknown(features)
        values, left = (part[..., -(size // 2) :] for part in _decomposed(kernel.double(), kernel.dtype))
        kept = values > 1e-5 * values[-1].clamp(min=torch.finfo(values.dtype).tiny)
        if not kept.any():
            return cls(values.new_zeros(1), torch.eye(d, 1, dtype=features.dtype, device=features.device))
        vectors = first.T @ (left[:, kept] / (size * values[kept]).sqrt())
        along = (second @ vectors).square().mean(0)
        along, places = along.sort()
        # What is left may be nothing but noise of either sign; the directions are still there.
        rest = max((trace - float(along.sum())) / max(d - len(along), 1), 0.1 * float(along[0]))
        return cls(along, vectors[:, places].contiguous(), rest)


def decomposition_bytes(d: int) -> int:
    """Count the bytes that a decomposition and its working copies take at most.

    Args:
        d: Features.
    """
    return 32 * d * d if d <= LARGEST else 16 * SAMPLE * d


def sampled(n: int, d: int, device: torch.device | None = None) -> bool:
    """Tell whether the axes are those of a sample of the rows.

    Args:
        n: Samples.
        d: Features.
        device: Where they are; the CPU by default.
    """
    on_cpu = device is None or device.type == "cpu"
    return min(n, d) > LARGEST or (on_cpu and WIDEST < d <= n and n >= 2 * SAMPLE)


def _unknown(features: Features) -> Spectrum:
    nan = torch.full((features.shape[1],), torch.nan, dtype=features.dtype, device=features.device)
    return Spectrum(nan, None)


def _decomposed(gram: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Compute eigenvalues and eigenvectors, on the CPU in float32 if possible; a GPU takes as long for float64.

    Where rounding noise is most of what a layer holds, or many of its features are constant, the single-precision
    algorithm may not converge or return NaN; the matrix is in float64, which then does.
    """
    found = gram.device.type == "cpu"
    if found:
        try:
            values, vectors = torch.linalg.eigh(gram.to(dtype))
            found = bool(values.isfinite().all() and vectors.isfinite().all())
        except torch.linalg.LinAlgError:
            found = False
    if not found:
        values, vectors = torch.linalg.eigh(gram)
    return values.to(dtype), vectors.to(dtype)
