"""Class means of the training features."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.analyses.analysis import LayerData
from layerprobe.probing.features.row_blocks import placed_blocks


def class_means(layer: LayerData) -> Float[Tensor, "c d"]:
    """Average the standardised training features of each class, in float64.

    Args:
        layer: The layer; its targets are classes.
    """
    targets, c = layer.labels.splits["train"].to(layer.train.device), len(layer.labels.outputs)
    sums = torch.zeros(c, layer.train.shape[1], dtype=torch.float64, device=targets.device)
    for rows, part in placed_blocks(layer.train):
        sums.index_add_(0, targets[rows], part.double())
    return sums / torch.bincount(targets, minlength=c)[:, None]
