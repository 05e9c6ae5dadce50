"""Angles between two sets of directions in one layer's features, as metrics."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.analyses.analysis import LayerData, Metric
from layerprobe.probing.features.row_blocks import blocks
from layerprobe.statistics.directions import contrasts, principal_angles, random_angle, row_space


def head_directions(weight: Float[Tensor, "c d"], layer: LayerData) -> Float[np.ndarray, "k d"]:
    """Find where weights for standardised features look, in the features' own units."""
    own = weight.double().cpu() / layer.head.standardiser.scale.double().cpu()
    return contrasts(own.numpy(), layer.task.name)


def angles_between(
    first: Float[np.ndarray, "k d"], second: Float[np.ndarray, "m d"], layer: LayerData
) -> dict[str, float]:
    """Measure two sets of directions against each other.

    Returns:
        `angle`, in degrees as in `principal_angles.Angles`, Euclidean in the features' own units; `score_angle`,
        likewise of the scores that they give the training samples, about their means, which is the angle in the inner
        product of the features' covariance; and of single directions `cosine` and `score_cosine`, with their signs.

    Raises:
        ArithmeticError: Where one of them is zero.
    """
    found = _angle(first, second, "")
    return found | _angle(_scores(first, layer), _scores(second, layer), "score_")


def random_metric(first: Float[np.ndarray, "k d"], second: Float[np.ndarray, "m d"], layer: LayerData) -> Metric:
    """Work out what `angle` is for random directions of as many dimensions, and between which ends 95 % of them are.

    Features that are constant on train do not count as dimensions.
    """
    d = int((~layer.head.standardiser.constant).sum())
    found = random_angle(len(row_space(first)), len(row_space(second)), d)
    return Metric("random_angle", found.angle, found.low, found.high)


def _angle(first: Float[np.ndarray, "k d"], second: Float[np.ndarray, "m d"], prefix: str) -> dict[str, float]:
    one, other = row_space(first), row_space(second)
    if not len(one) or not len(other):
        raise ArithmeticError("a head is constant and looks nowhere")
    found = {f"{prefix}angle": principal_angles(one, other).angle}
    if len(first) == len(second) == 1:
        found[f"{prefix}cosine"] = float(first[0] @ second[0] / (np.linalg.norm(first[0]) * np.linalg.norm(second[0])))
    return found


def _scores(rows: Float[np.ndarray, "k d"], layer: LayerData) -> Float[np.ndarray, "k n"]:
    """Score the training samples, whose features are standardised and have a mean of zero."""
    weight = torch.from_numpy(rows).to(layer.train.device) * layer.head.standardiser.scale.to(layer.train.device)
    scores = torch.cat([part.double() @ weight.T for part in blocks(layer.train)])
    return (scores - scores.mean(0)).T.cpu().numpy()
