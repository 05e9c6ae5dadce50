"""The principal axes of the features: the preconditioner of every L2 value at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.matrix import Features, blocks
from layerprobe.probing.solvers.operations import Operations
from layerprobe.probing.solvers.precise import full_precision

LARGEST = 6144
"""Largest matrix that is decomposed, about a minute on two cores; beyond it a sample of the rows is."""

SAMPLE = 2048
"""Rows of that sample; half as many axes are kept."""

_COLUMNS = 1 << 24
"""Elements turned to float64 at a time: 128 MiB."""


@dataclass(frozen=True)
class Span:
    """The samples in their own span, where d > n: in it lies the optimum of every L2-penalised head.

    With XXᵀ/n = U Λ Uᵀ, the samples have the coordinates U (nΛ)^½ in the orthonormal basis Xᵀ U (nΛ)^-½. In float64.

    Attributes:
        coordinates: The samples.
        weights: U (nΛ)^-½: what makes the basis of the samples. The basis itself, d × r, is never held.
    """

    coordinates: Float[Tensor, "n r"]
    weights: Float[Tensor, "n r"]

    def back(self, heads: Float[Tensor, "p c r"], features: Features) -> Float[Tensor, "p c d"]:
        """Carry heads to the features; their norm stays.

        Args:
            heads: Weights in coordinates, float64.
            features: The samples that the span was made of.

        Returns:
            Weights for the features, float64.
        """
        p, c, _ = heads.shape
        shares = (heads @ self.weights.T).reshape(p * c, -1)
        found = torch.zeros(p * c, features.shape[1], dtype=torch.float64, device=heads.device)
        start = 0
        for rows in blocks(features):
            found += shares[:, start : start + len(rows)] @ rows.double()
            start += len(rows)
        return found.view(p, c, -1)


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of the features' Gram matrix XᵀX/n, in one of three forms.

    - d ≤ n: from the d × d Gram matrix, to float32's accuracy, which is enough to precondition.
    - d > n: the n × n matrix XXᵀ/n holds the whole problem, which is solved in the `span` of the samples.
    - both beyond `LARGEST`: the leading axes of a sample of the rows, and one value for all other directions
      (Frangella, Tropp & Udell, 2023, precondition so). The values along the axes are measured on other rows: by itself
      the sample takes its noise for variance.

    Attributes:
        values: Eigenvalues in ascending order, none below 0.
        vectors: Eigenvectors in columns; None where the axes are those of the span.
        rest: Eigenvalue in the directions beside `vectors`.
        span: The samples in their span, where d > n; None otherwise.
    """

    values: Float[Tensor, " r"]
    vectors: Float[Tensor, "d r"] | None
    rest: float = 0.0
    span: Span | None = None

    @classmethod
    @full_precision()
    def of(cls, features: Features) -> Spectrum:
        """Decompose standardised features.

        Args:
            features: Standardised features.

        Returns:
            The spectrum; its values are NaN where the features are not finite.
        """
        n, d = features.shape
        if min(n, d) > LARGEST:
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

    @staticmethod
    def operations(n: int, d: int) -> Operations:
        """Count what `of` does.

        Args:
            n: Samples.
            d: Features.

        Returns:
            The counts.
        """
        if min(n, d) > LARGEST:
            size = min(SAMPLE, n // 2)
            return Operations(square=2 * size * size * d, eigen=size**3, elements=n * d, reads=n * d)
        if d > n:
            return Operations(square_double=d * n * n, eigen_double=n**3, elements=n * d, reads=n * d)
        return Operations(square=n * d * d, eigen=d**3, reads=n * d)

    @classmethod
    def _of_rows(cls, features: Features) -> Spectrum:
        n = len(features)
        kernel = _products(features)
        if not torch.isfinite(kernel).all():
            return _unknown(features)
        values, left = torch.linalg.eigh(kernel / n)
        kept = values > 1e-13 * values[-1]
        if not kept.any():
            kept[-1] = True
        values, left = values[kept].clamp(min=torch.finfo(torch.float64).tiny), left[:, kept]
        scale = (n * values).sqrt()
        return cls(values, None, span=Span(left * scale, left / scale))

    @classmethod
    def of_sample(cls, features: Features) -> Spectrum:
        """The leading axes of a sample of the rows, whatever the features' number.

        Args:
            features: Standardised features.

        Returns:
            The spectrum; its values are NaN where the features are not finite.
        """
        n, d = features.shape
        size = min(SAMPLE, n // 2)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        first, second = (_rows(features, order[i * size : (i + 1) * size]) for i in range(2))
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


def _unknown(features: Features) -> Spectrum:
    nan = torch.full((features.shape[1],), torch.nan, dtype=features.dtype, device=features.device)
    return Spectrum(nan, None)


def _rows(features: Features, which: Tensor) -> Tensor:
    """Some rows, read in pieces."""
    wanted, found, start = which.sort().values, [], 0
    for rows in blocks(features):
        here = wanted[(wanted >= start) & (wanted < start + len(rows))] - start
        found.append(rows[here.to(rows.device)])
        start += len(rows)
    return torch.cat(found)


def _products(features: Features) -> Tensor:
    """XXᵀ in float64."""
    n, d = features.shape
    kernel = torch.zeros(n, n, dtype=torch.float64, device=features.device)
    for i, rows in _placed(features):
        for j, others in [(i, rows)] if isinstance(features, Tensor) else _placed(features, i):
            step = max(1, _COLUMNS // max(len(rows), len(others)))
            for start in range(0, d, step):
                part = others[:, start : start + step].double()
                kernel[i : i + len(rows), j : j + len(others)] += rows[:, start : start + step].double() @ part.T
    return kernel if isinstance(features, Tensor) else kernel.triu() + kernel.triu(1).T


def _placed(features: Features, first: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Blocks of rows with their places: all at once where they are in memory."""
    n, d = features.shape
    rows = n if isinstance(features, Tensor) else max(1, 4 * _COLUMNS // max(d, 1))
    for start in range(first, n, rows):
        yield start, features[start : min(start + rows, n)]


def _decomposed(gram: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors, on the CPU in float32 if that can be done; a GPU takes as long for float64.

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
