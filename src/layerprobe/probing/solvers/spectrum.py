"""The principal axes of the features: the preconditioner of every L2 value at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST = 6144
"""Largest matrix that is decomposed, about a minute on two cores; beyond it the axes are taken to be the features."""

_CHUNK = 1 << 24
"""Elements turned to float64 at a time: 128 MiB."""


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of the features' Gram matrix XᵀX/n, in one of three forms.

    - d ≤ n: from the d × d Gram matrix, to float32's accuracy, which is enough to precondition.
    - d > n: the optimum of an L2-penalised head lies in the span of the samples, so the n × n matrix XXᵀ/n =
      U diag(values) Uᵀ holds the whole problem: `coordinates` = U diag(n·values)^½ are the samples in that span, and
      `vectors` = Xᵀ U diag(n·values)^-½ carries a head back, with the same norm. In float64.
    - both beyond `LARGEST`: the diagonal of the Gram matrix, with no `vectors`.

    Attributes:
        values: Eigenvalues, none below 0.
        vectors: Eigenvectors in columns; None where the axes are the features themselves.
        coordinates: The samples in the basis of `vectors`, where d > n; None otherwise.
    """

    values: Float[Tensor, " r"]
    vectors: Float[Tensor, "d r"] | None
    coordinates: Float[Tensor, "n r"] | None

    @classmethod
    def of(cls, features: Float[Tensor, "n d"]) -> Spectrum:
        """Decompose standardised features.

        Args:
            features: Standardised features.

        Returns:
            The spectrum; its values are NaN where the features are not finite.
        """
        n, d = features.shape
        if min(n, d) > LARGEST:
            return cls(features.square().mean(0), None, None)
        if d > n:
            return cls._of_rows(features)
        gram = torch.zeros(d, d, dtype=torch.float64, device=features.device)
        for rows in features.split(4096):
            gram += rows.T @ rows
        gram /= n
        if not torch.isfinite(gram).all():
            return cls(torch.full_like(features[0], torch.nan), None, None)
        values, vectors = _decomposed(gram, features.dtype)
        return cls(values.clamp(min=0), vectors, None)

    @classmethod
    def _of_rows(cls, features: Float[Tensor, "n d"]) -> Spectrum:
        n, d = features.shape
        kernel = torch.zeros(n, n, dtype=torch.float64, device=features.device)
        step = max(1, _CHUNK // n)
        for start in range(0, d, step):
            part = features[:, start : start + step].double()
            kernel += part @ part.T
        if not torch.isfinite(kernel).all():
            return cls(torch.full_like(features[0], torch.nan), None, None)
        values, left = torch.linalg.eigh(kernel / n)
        kept = values > 1e-13 * values[-1]
        if not kept.any():
            kept[-1] = True
        values, left = values[kept].clamp(min=torch.finfo(torch.float64).tiny), left[:, kept]
        scale = (n * values).sqrt()
        basis = left / scale
        vectors = torch.cat([(features[:, i : i + step].double().T @ basis) for i in range(0, d, step)])
        return cls(values, vectors, left * scale)


def _decomposed(gram: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors, in float32 if that can be done.

    Where rounding noise is most of what a layer holds, the single-precision algorithm may not converge; the matrix is
    in float64, which then does.
    """
    try:
        values, vectors = torch.linalg.eigh(gram.to(dtype))
    except torch.linalg.LinAlgError:
        values, vectors = torch.linalg.eigh(gram)
    return values.to(dtype), vectors.to(dtype)
