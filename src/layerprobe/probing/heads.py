"""Heads, frozen: apply them to features, count their errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import Features, blocks, placed_blocks

Losses = Callable[[Float[Tensor, "n c"], Int[Tensor, " n"]], Float[Tensor, " n"]]
"""Loss of each sample, from scores and class indices."""

_SCORES = 1 << 24
"""64 MiB in float32."""


@dataclass(frozen=True)
class Heads:
    """The heads of one path, frozen."""

    weight: Float[Tensor, "p c d"]
    bias: Float[Tensor, "p c"]

    def to(self, device: torch.device) -> Heads:
        """Return the same on another device."""
        return Heads(self.weight.to(device), self.bias.to(device))

    def evaluate(
        self,
        features: Features,
        targets: Int[Tensor, " n"],
        losses: Losses,
        elements: int = _SCORES,
        unknown: float = math.inf,
    ) -> tuple[Bool[Tensor, "p n"], Float[Tensor, " p"]]:
        """Apply every head to every sample: whether each is right, and each head's mean loss, summed in float64.

        The features are standardised, the targets class indices. A sample whose class the heads do not know (target -1)
        is wrong, and its loss is `unknown`. `elements` scores are computed at a time.
        """
        p = len(self.weight)
        correct = torch.empty(p, len(features), dtype=torch.bool, device=features.device)
        total = torch.zeros(p, dtype=torch.float64, device=features.device)
        for rows, scores in self.blocks(features, elements):
            truth = targets[rows]
            correct[:, rows] = (scores.argmax(2) == truth[:, None]).T
            for i in range(p):
                loss = losses(scores[:, i], truth.clamp(min=0)).double()
                total[i] += torch.where(truth < 0, unknown, loss).sum()
        return correct, total / len(features)

    def blocks(self, features: Features, elements: int = _SCORES) -> Iterator[tuple[slice, Float[Tensor, "r p c"]]]:
        """Score samples with every head, some samples at a time."""
        p, c, d = self.weight.shape
        weight, bias = self.weight.reshape(p * c, d), self.bias.reshape(p * c)
        for place, part in placed_blocks(features, elements * d // max(p * c, d)):
            yield place, torch.addmm(bias, part, weight.T).view(len(part), p, c)

    def scores(self, features: Features) -> Float[Tensor, "n c"]:
        """Score samples with the first head of the path."""
        return torch.cat([torch.addmm(self.bias[0], part, self.weight[0].T) for part in blocks(features)])

    def __getitem__(self, index: int) -> Heads:
        """Return one point of the path, still with its axis."""
        return Heads(self.weight[index : index + 1].clone(), self.bias[index : index + 1].clone())
