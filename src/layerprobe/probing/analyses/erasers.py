"""Erasers: affine maps that take every linear trace of a property out of features (LEACE)."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from layerprobe.probing.features.reducers import Masks, Reduction
from layerprobe.probing.features.row_blocks import AbstractRows, Features, placed_blocks


def check_installed(what: str) -> None:
    """Refuse where the package is missing.

    Raises:
        ValueError: Saying how it is installed.
    """
    if find_spec("concept_erasure") is None:
        raise ValueError(f"{what} needs the package `concept-erasure`: pip install 'layerprobe[erasure]'")


def fit_eraser(features: Features, targets: Shaped[Tensor, "n ..."]) -> Any:
    """Fit the eraser of a property to training features.

    Source: Belrose et al. (2023), by their package. Of all affine maps that leave features without any correlation with
    the property it is the one that changes them least. No linear head with a convex loss does better on what is left
    of the training samples than the best constant answer. It is fitted in float64, without the package's shrinkage and
    bound on the trace: with the training covariance itself the trace cannot grow, and no trace is left.

    Args:
        features: Training features.
        targets: Class indices (n), each of which at least one sample has; or labels or values (n c).

    Returns:
        What maps features (n d) to features, `concept_erasure.LeaceEraser`.

    Raises:
        ValueError: Where the package is not installed.
    """
    check_installed("Erasure")
    with warnings.catch_warnings():  # torch.jit.script, which the package uses, is deprecated
        warnings.simplefilter("ignore")
        from concept_erasure import LeaceFitter

    targets = targets.to(features.device)
    known = F.one_hot(targets) if not targets.is_floating_point() and targets.ndim == 1 else targets
    known = known.double().reshape(len(known), -1)
    fitter = LeaceFitter(
        features.shape[1], known.shape[1], dtype=torch.float64, device=features.device,
        shrinkage=False, constrain_cov_trace=False, svd_tol=1e-8,
    )  # fmt: skip
    for rows, part in placed_blocks(features):
        fitter.update(part.double(), known[rows])
    return fitter.eraser


def erased(features: Features, eraser: Any) -> Features:
    """Return features without the property: a new tensor, or rows that are erased as they are read."""
    if isinstance(features, AbstractRows):
        return ErasedRows(features, eraser)
    found = torch.empty_like(features)
    for rows, part in placed_blocks(features):
        found[rows] = eraser(part)
    return found


def erased_activation(
    activation: Float[Tensor, " n *shape"], reduction: Reduction, eraser: Any, masks: Masks
) -> Float[Tensor, " n *shape"]:
    """Change activations as little as possible, so that their features are the erased ones.

    With features z = R a of a linear reducer and δ the change that the eraser makes to z, the smallest change of a is
    Rᵀ(RRᵀ)⁻¹δ. Reducers that choose units or average over disjoint groups of one size have RRᵀ = c·1 for each sample,
    and so δ·δ / δ·RRᵀδ is 1/c. Rᵀδ is the gradient of δ·R a.

    Raises:
        ValueError: The reducer is not of this kind.
    """
    with torch.inference_mode(False), torch.enable_grad():
        wide = activation.detach().clone().to(torch.promote_types(activation.dtype, torch.float32)).requires_grad_()
        features = reduction(wide, masks)
        target = eraser(features.detach().to(eraser.proj_left.device)).to(features.device)
        change = target - features.detach()
        (step,) = torch.autograd.grad(features, wide, change)
    with torch.no_grad():
        back = reduction(step, masks)
        size = change.square().sum(1) / (change * back).sum(1).clamp_min(torch.finfo(change.dtype).tiny)
        found = wide.detach() + size.view(-1, *[1] * (wide.ndim - 1)) * step
        left = (reduction(found, masks) - target).norm()
        if left > 1e-3 * (target.norm() + change.norm()):
            raise ValueError(f"features made by {reduction.description!r} cannot be changed one by one in the layer")
        return found.to(activation.dtype)


class ErasedRows(AbstractRows):
    """Rows that are erased as they are read."""

    def __init__(self, rows: AbstractRows, eraser: Any) -> None:
        self.rows, self.eraser = rows, eraser
        self.shape, self.dtype, self.device = rows.shape, rows.dtype, rows.device

    def __getitem__(self, rows: slice) -> Float[Tensor, "k d"]:
        """See `AbstractRows.__getitem__`."""
        found: Tensor = self.eraser(self.rows[rows])
        return found
