"""Losses of the classes' scores and their derivatives for Newton's method, in NumPy, whose calls cost the least."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.solvers.softmax_objective import basis, covariance


@dataclass(frozen=True)
class ScoreDerivatives:
    """What is known of the loss at some scores.

    Attributes:
        loss: Sum over the samples of what each counts times its loss, float64.
        residual: Its derivatives by the scores.
        shares: What second derivatives are made of.
        classes: Mean over the samples of the second derivatives, in the coordinates of `basis`, float64.
    """

    loss: float
    residual: Float[np.ndarray, "r n"]
    shares: Float[np.ndarray, "r n"]
    classes: Float[np.ndarray, "m m"]


class AbstractScoreLoss(ABC):
    """The cross-entropy of some samples as a function of r scores of each, which are linear in a head."""

    @abstractmethod
    def expand(self, heads: Float[np.ndarray, "*k m e"]) -> Float[np.ndarray, "*k r e"]:
        """Return what the samples are multiplied with to give scores, from heads in the coordinates of `basis`."""

    @abstractmethod
    def reduce(self, products: Float[np.ndarray, "r e"]) -> Float[np.ndarray, "m e"]:
        """Return the transpose of `expand`."""

    @abstractmethod
    def __call__(self, scores: Float[np.ndarray, "r n"]) -> ScoreDerivatives:
        """Compute loss and derivatives; the scores are overwritten."""

    @abstractmethod
    def curved(self, shares: Float[np.ndarray, "r n"], along: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r n"]:
        """Return the second derivatives times a change of the scores, which is overwritten."""

    @abstractmethod
    def second(self, shares: Float[np.ndarray, "r n"], rows: slice) -> Float[np.ndarray, "m m k"]:
        """Compute second derivatives of some samples in the coordinates of `basis`, float64."""


class SoftmaxLoss(AbstractScoreLoss):
    r"""Any number of classes: a score for each, and \(Q^\top (\mathrm{diag}(q_i) - q_i q_i^\top) Q\) for a sample.

    Args:
        targets: Class indices.
        n_classes: Number of classes.
        counts: What each sample counts; None where all count the same.
    """

    def __init__(self, targets: Int[Tensor, " n"], n_classes: int, counts: Float[np.ndarray, " n"] | None) -> None:
        self._basis = basis(n_classes, torch.float64, targets.device).numpy()
        self._own, self._counts = (targets.numpy(), np.arange(len(targets))), counts

    def expand(self, heads: Float[np.ndarray, "*k m e"]) -> Float[np.ndarray, "*k r e"]:
        """See `AbstractScoreLoss.expand`."""
        return self._basis @ heads

    def reduce(self, products: Float[np.ndarray, "r e"]) -> Float[np.ndarray, "m e"]:
        """See `AbstractScoreLoss.reduce`."""
        return self._basis.T @ products

    def __call__(self, scores: Float[np.ndarray, "r n"]) -> ScoreDerivatives:
        """See `AbstractScoreLoss.__call__`."""
        q, own = self._basis, self._own
        scores -= scores[own]
        largest = scores.max(0)
        share = np.exp(scores - largest)
        mine = share[own]
        share[own] = 0
        others = share.sum(0)
        total = others + mine
        share /= total
        # To all digits where the own class's share is near 1.
        loss = self._counted(largest + np.log1p(others + np.expm1(-largest))).sum(dtype=np.float64)
        scores[:] = share
        scores[own], share[own] = -others / total, mine / total
        double = share.astype(np.float64)
        # By PyTorch, whose threads are those that a fit is worth.
        products = torch.from_numpy(double) @ torch.from_numpy(self._counted(double / -len(others))).T
        classes = q.T @ covariance(products[None])[0].numpy() @ q
        np.fill_diagonal(classes, classes.diagonal() * (1 + 1e-12) + 1e-300)
        return ScoreDerivatives(float(loss), self._counted(scores), share, classes)

    def curved(self, shares: Float[np.ndarray, "r n"], along: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r n"]:
        """See `AbstractScoreLoss.curved`."""
        # A shift of all classes changes nothing; this one loses no digit where the own class's share is near 1.
        along -= along[self._own]
        along -= (shares * along).sum(0)
        along *= shares
        return self._counted(along)

    def second(self, shares: Float[np.ndarray, "r n"], rows: slice) -> Float[np.ndarray, "m m k"]:
        """See `AbstractScoreLoss.second`."""
        q = shares[:, rows].astype(np.float64)
        away = self._basis[:, :, None] - (self._basis.T @ q)[None]
        counted = q if self._counts is None else q * self._counts[rows]
        # A sum of squares, which loses no digit.
        found: np.ndarray = (counted[:, None, None] * away[:, :, None] * away[:, None]).sum(0)
        return found

    def _counted(self, values: Float[np.ndarray, "*c n"]) -> Float[np.ndarray, "*c n"]:
        """Multiply values of the samples, in place, with what each counts."""
        if self._counts is not None:
            values *= self._counts
        return values


class BinaryLoss(AbstractScoreLoss):
    """Two classes: one score in the coordinates of `basis`; `BinaryObjective` has the formulas.

    Args:
        targets: 0 or 1.
        counts: What each sample counts; None where all count the same.
    """

    def __init__(self, targets: Int[Tensor, " n"], counts: Float[np.ndarray, " n"] | None) -> None:
        self._signs, self._counts = math.sqrt(2) * (1 - 2 * targets.numpy().astype(np.float64)), counts
        self._short = self._signs.astype(np.float32)

    def expand(self, heads: Float[np.ndarray, "*k m e"]) -> Float[np.ndarray, "*k r e"]:
        """See `AbstractScoreLoss.expand`."""
        return heads

    def reduce(self, products: Float[np.ndarray, "r e"]) -> Float[np.ndarray, "m e"]:
        """See `AbstractScoreLoss.reduce`."""
        return products.astype(np.float64)

    def __call__(self, scores: Float[np.ndarray, "r n"]) -> ScoreDerivatives:
        """See `AbstractScoreLoss.__call__`."""
        signs = self._signs if scores.dtype == np.float64 else self._short
        scores *= signs
        away = np.exp(-np.abs(scores))
        share = 1 / (1 + away)
        losses = np.maximum(scores, 0) + np.log1p(away)
        residual = signs * np.where(scores >= 0, share, away * share)
        curvature = 2 * away * share * share
        if self._counts is not None:
            losses, residual, curvature = (
                (part * self._counts).astype(scores.dtype) for part in (losses, residual, curvature)
            )
        classes = np.array([[curvature.mean(dtype=np.float64) + 1e-300]])
        return ScoreDerivatives(float(losses.sum(dtype=np.float64)), residual, curvature, classes)

    def curved(self, shares: Float[np.ndarray, "r n"], along: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r n"]:
        """See `AbstractScoreLoss.curved`."""
        along *= shares
        return along

    def second(self, shares: Float[np.ndarray, "r n"], rows: slice) -> Float[np.ndarray, "m m k"]:
        """See `AbstractScoreLoss.second`."""
        return shares[None, :, rows].astype(np.float64)
