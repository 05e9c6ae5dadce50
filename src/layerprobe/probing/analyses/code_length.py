"""Code length of labels: their log loss in bits under a head's probabilities, and the heads chosen by it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerprobe.probing.analyses.analysis import LayerData
from layerprobe.probing.analyses.best_head import Evaluate
from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.heads import Heads
from layerprobe.probing.solvers.logistic import Logistic


def code_length(
    heads: Heads, features: Features, targets: Int[Tensor, " n"], seen: Bool[Tensor, " c"]
) -> Float[Tensor, "p n"]:
    """Measure the bits of each label, -log2 p(y | x), by the softmax over the classes that the heads were fitted to.

    Features are standardised, and each label is of a class that was seen.

    Returns:
        Bits, float64.
    """
    found = []
    for rows, scores in heads.blocks(features):
        logs = scores.double().masked_fill(~seen, -math.inf).log_softmax(2)
        truth = targets[rows, None, None].expand(-1, len(heads.weight), 1)
        found.append(-logs.gather(2, truth)[:, :, 0].T / math.log(2))
    return torch.cat(found, 1) if found else torch.zeros(len(heads.weight), 0, dtype=torch.float64)


def by_code_length(layer: LayerData, seen: Bool[Tensor, " c"]) -> Evaluate | None:
    """Return what chooses heads by the bits that validation's labels take, those of classes that were seen.

    Returns:
        The mean, twice; None where there is no validation sample of these classes.
    """
    if layer.val is None:
        return None
    targets = layer.labels.splits["val"].to(layer.val.device)
    counts = (targets >= 0) & seen.to(targets.device)[targets.clamp(min=0)]
    if not counts.any():
        return None
    # Labels that do not count take any one's place.
    filled, val = targets.where(counts, seen.nonzero()[0, 0].to(targets.device)), layer.val

    def evaluate(heads: Heads) -> tuple[Tensor, Tensor]:
        bits = code_length(heads, val, filled, seen.to(targets.device))[:, counts].mean(1)
        return bits, bits

    return evaluate


def unweighted_logistic(layer: LayerData) -> Logistic:
    """Choose the solver whose softmax estimates p(y | x), as a code needs: the sweep's own, or the usual one."""
    return layer.head.solver if isinstance(layer.head.solver, Logistic) else Logistic()
