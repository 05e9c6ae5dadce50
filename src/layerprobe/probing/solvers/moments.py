"""Moments of features and targets: all that least squares needs to know of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features, placed_blocks
from layerprobe.probing.features.scaler import Standardiser

_BLOCK = 1 << 22


Rows: TypeAlias = Callable[[slice], Tensor]
"""Gives a row, or a number, of some samples each."""


@dataclass(frozen=True)
class Axes:
    """The covariance's eigenvectors, in which the problem of every L2 value is diagonal.

    Attributes:
        vectors: Eigenvectors V in columns.
        inverse: 1/(λ + l2) for each value and axis; 0 where l2 = 0 and λ is rounding.
        turned: Vᵀ B.
    """

    vectors: Float[Tensor, "d d"]
    inverse: Float[Tensor, "p d"]
    turned: Float[Tensor, "d c"]


@dataclass(frozen=True)
class CrossMoments:
    """Moments about the means, in float64, without those of features with features.

    Attributes:
        cross: XᵀY/n - x̄ȳᵀ.
        feature_mean: x̄.
        target_mean: ȳ.
        target_variance: Variance of Y, summed over its columns.
    """

    cross: Float[Tensor, "d c"]
    feature_mean: Float[Tensor, " d"]
    target_mean: Float[Tensor, " c"]
    target_variance: float

    @classmethod
    def of(
        cls, features: Features, targets: Rows, c: int, elements: int = _BLOCK, counts: Rows | None = None
    ) -> CrossMoments:
        """Measure samples that are there.

        Args:
            features: The samples.
            targets: Gives the rows (k, c) of Y for some samples.
            c: Columns of Y.
            elements: Features turned to float64 at a time.
            counts: What each of some samples counts, float64; 1 by default.

        Returns:
            The moments.
        """
        return _sums(features, targets, c, elements, counts, squares=False).cross_moments()


@dataclass(frozen=True)
class Moments(CrossMoments):
    """All second moments about the means, in float64.

    Attributes:
        covariance: XᵀX/n - x̄x̄ᵀ.
    """

    covariance: Float[Tensor, "d d"]

    @classmethod
    def of(
        cls, features: Features, targets: Rows, c: int, elements: int = _BLOCK, counts: Rows | None = None
    ) -> Moments:
        """See `CrossMoments.of`."""
        return _sums(features, targets, c, elements, counts, squares=True).moments()

    def standardised(self, standardiser: Standardiser) -> Moments:
        """Return the moments of standardised features: standardising changes moments as it changes features.

        Args:
            standardiser: What is done to the features.
        """
        scale, kept = standardiser.scale.double(), (~standardiser.constant).double()
        return Moments(
            self.cross / scale[:, None] * kept[:, None],
            (self.feature_mean - standardiser.mean.double()) / scale * kept,
            self.target_mean,
            self.target_variance,
            self.covariance / torch.outer(scale, scale) * torch.outer(kept, kept),
        )

    def axes(self, l2: Float[Tensor, " p"]) -> Axes:
        """Decompose the covariance, once for every L2 value.

        Args:
            l2: L2 values, float64.

        Returns:
            The axes.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        floor = 1e-13 * values[-1].clamp(min=torch.finfo(torch.float64).tiny)
        inverse = torch.where((values > floor) | (l2[:, None] > 0), 1 / (values.clamp(min=0) + l2[:, None]), 0.0)
        return Axes(vectors, inverse, vectors.T @ self.cross)

    def evaluate(
        self, weight: Float[Tensor, "p c d"], l2: Float[Tensor, " p"]
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, "p c d"]]:
        """Compute objective and gradient at weights whose bias is optimal.

        mean‖Wx + b - y‖² = tr(W C Wᵀ) - 2 tr(W B) + Var(y), with Var(y) summed over the targets.
        """
        fitted = weight @ self.covariance
        penalty = l2 * weight.square().sum((1, 2))
        objective = 0.5 * (
            (fitted * weight).sum((1, 2)) - 2 * (weight.mT * self.cross).sum((1, 2)) + self.target_variance + penalty
        )
        return objective.clamp_min(0), fitted - self.cross.T + l2.view(-1, 1, 1) * weight


class Sums:
    """The sums that moments are made of; they grow with d² and c, not with n.

    Features are taken about a fixed origin near them: a large mean then costs the variance nothing.

    Args:
        d: Number of features.
        c: Columns of Y.
        device: Where the features are.
        origin: The origin; 0 by default.
        squares: Whether to sum XᵀX, the one of the sums that grows with d².
    """

    def __init__(
        self,
        d: int,
        c: int,
        device: torch.device,
        origin: Float[Tensor, " d"] | None = None,
        *,
        squares: bool = True,
    ) -> None:
        self.n = 0.0
        self.origin = torch.zeros(d, dtype=torch.float64, device=device) if origin is None else origin.double()
        self.gram = torch.zeros(d, d, dtype=torch.float64, device=device) if squares else None
        self.x = torch.zeros(d, dtype=torch.float64, device=device)
        self.cross = torch.zeros(d, c, dtype=torch.float64, device=device)
        self.y = torch.zeros(c, dtype=torch.float64, device=device)
        self.y_square = torch.zeros(c, dtype=torch.float64, device=device)

    def add(self, x: Float[Tensor, "k d"], y: Float[Tensor, "k c"], counts: Float[Tensor, " k"] | None = None) -> None:
        """Add samples, in float64, each of which counts as many as is said, or one."""
        x = x - self.origin
        self.n += len(x) if counts is None else float(counts.sum())
        counted = x if counts is None else x * counts[:, None]
        if self.gram is not None:
            self.gram += x.T @ counted
        self.cross += counted.T @ y
        self.x += counted.sum(0)
        weighted = y if counts is None else y * counts[:, None]
        self.y += weighted.sum(0)
        self.y_square += (y * weighted).sum(0)

    def cross_moments(self) -> CrossMoments:
        """Return the moments, without the covariance."""
        x, y = self.x / self.n, self.y / self.n
        variance = float((self.y_square / self.n - y.square()).sum())
        return CrossMoments(self.cross / self.n - torch.outer(x, y), x + self.origin, y, variance)

    def moments(self) -> Moments:
        """Return the moments."""
        assert self.gram is not None, "XᵀX was not summed"
        x = self.x / self.n
        return Moments(**vars(self.cross_moments()), covariance=self.gram / self.n - torch.outer(x, x))


def _sums(features: Features, targets: Rows, c: int, elements: int, counts: Rows | None, *, squares: bool) -> Sums:
    sums = Sums(features.shape[1], c, features.device, squares=squares)
    for place, rows in placed_blocks(features, elements):
        sums.add(rows.double(), targets(place).double(), None if counts is None else counts(place))
    return sums


class ClassSums:
    """The sums that moments of features and one-hot classes are made of, while the samples pass by.

    They grow with the square of the features and with the classes, not with the samples. Classes need not be known
    beforehand. How often each is there is known at the end only, and so is what a sample counts where classes are
    weighted by that: then XᵀX is summed for each class by itself, Σ_j w_j (XᵀX)_j is that of weighted samples.

    Args:
        weighted: Whether samples are to count by their class.
    """

    def __init__(self, *, weighted: bool = False) -> None:
        self._sums: Sums | None = None
        self._of_class: dict[int, Sums] = {}
        self._weighted = weighted
        self.dtype = torch.float32

    def update(self, features: Float[Tensor, "b d"], targets: Int[Tensor, " b"]) -> None:
        """Add a batch.

        Args:
            features: Features as the reducer made them, not standardised.
            targets: Class indices, any non-negative integers.
        """
        x = features.double()
        if self._sums is None:
            self._sums, self.dtype = self._empty(x.mean(0), squares=not self._weighted), features.dtype
        self._sums.add(x, x.new_empty(len(x), 0))
        for value in targets.unique().tolist():
            rows = x[(targets == value).to(x.device)]
            if value not in self._of_class:
                self._of_class[value] = self._empty(self._sums.origin, squares=self._weighted)
            self._of_class[value].add(rows, rows.new_empty(len(rows), 0))

    @staticmethod
    def _empty(origin: Float[Tensor, " d"], *, squares: bool) -> Sums:
        return Sums(len(origin), 0, origin.device, origin, squares=squares)

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self._seen.x.device

    @cached_property
    def standardiser(self) -> Standardiser:
        """The features' statistics, once all samples have been seen; each counts once."""
        raw = self._seen.moments()
        return Standardiser.of(raw.feature_mean, raw.covariance.diagonal(), self.dtype)

    def moments(self, classes: Int[Tensor, " c"], weights: Float[Tensor, " c"] | None = None) -> Moments:
        """Return the moments of standardised features and one-hot targets.

        Args:
            classes: Class indices, in the order of the targets' columns.
            weights: What a sample of each class counts, float64; 1 by default.

        Returns:
            The moments.
        """
        none = self._empty(self._seen.origin, squares=self._weighted)
        each = [self._of_class.get(int(value), none) for value in classes]
        counts = torch.tensor([sums.n for sums in each], dtype=torch.float64, device=self.device)
        cross = torch.stack([sums.x for sums in each], 1)
        sums = copy(self._seen)
        if weights is not None:
            weights = weights.to(self.device)
            counts, cross = counts * weights, cross * weights
            sums.n, sums.x, sums.gram = float(counts.sum()), cross.sum(1), _total(each, weights.tolist())
        sums.y = sums.y_square = counts
        sums.cross = cross
        return sums.moments().standardised(self.standardiser)

    @cached_property
    def _seen(self) -> Sums:
        assert self._sums is not None
        found = copy(self._sums)
        if self._weighted:
            found.gram = _total(list(self._of_class.values()))
        return found


def _total(each: Sequence[Sums], weights: Sequence[float] | None = None) -> Float[Tensor, "d d"]:
    """Compute Σ_j w_j (XᵀX)_j."""
    d = len(each[0].origin)
    total = torch.zeros(d, d, dtype=torch.float64, device=each[0].origin.device)
    for sums, weight in zip(each, weights or [1.0] * len(each), strict=True):
        assert sums.gram is not None, "XᵀX was not summed for each class"
        total.add_(sums.gram, alpha=weight)
    return total
