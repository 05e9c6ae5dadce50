"""Description length of a layer's labels: how many bits they take, given the features, by the online code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, final

import torch
from torch import Tensor

from layerprobe.probing.analyses.analysis import AbstractAnalysis, LayerData, Metric, Reading
from layerprobe.probing.analyses.best_head import best_head
from layerprobe.probing.analyses.code_length import by_code_length, code_length, unweighted_logistic
from layerprobe.probing.features.row_blocks import picked_rows


@dataclass(frozen=True)
class Block:
    """One block of the code.

    Attributes:
        start: Samples before it, which its head was fitted to; 0 for the first block, which has no head.
        end: Samples with it.
        bits: What its labels take.
        prior_bits: What they take by the frequencies of the labels before it alone.
        l2: L2 value of its head; NaN where there is none.
        gap: Bound on (objective - optimum) / objective of its head; likewise.
    """

    start: int
    end: int
    bits: float
    prior_bits: float
    l2: float = math.nan
    gap: float = math.nan


@final
@dataclass(frozen=True)
class DescriptionLength(AbstractAnalysis):
    r"""Minimum description length by the online code of Voita & Titov (2020).

    The training labels are sent in an order drawn by the seed, block by block; sender and receiver have the features.
    The first block takes log2 K bits for each of its t₁ labels. Each further block is coded by the head that is fitted
    to all samples before it:

    \(L = t_1 \log_2 K - \sum_i \sum_{j=t_i+1}^{t_{i+1}} \log_2 p_i(y_j | x_j)\), and the compression is
    \(n \log_2 K / L\): 1 and less where features say nothing of labels, K equal classes provided.

    A head is logistic regression, exact, its L2 value that with the fewest bits on validation, as Voita & Titov end
    training by the loss on the development set: like them, the code does not count what that choice says. Without a
    validation split it is the selected head's. Features are standardised by all of train, since only labels are coded.

    A class that has not been seen among the t samples before a block has the probability 1/(t + K), Laplace's rule,
    and the head's softmax over the others shares the rest: so the code is one at any t, and the head's own as soon as
    every class has been seen. By the same rule, \((n_y + 1)/(t + K)\), goes the code without features, which is what
    unequal classes alone compress: `prior_compression`.

    The fits are to half of train, a quarter, …, so that they come to about those of one path more.

    Attributes:
        blocks: Where blocks end, as shares of train; those of no sample are left out, and the last one is all.
    """

    blocks: Sequence[float] = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
    name: ClassVar[str] = "description_length"
    needs_classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if bad := [share for share in self.blocks if not 0 < share <= 1]:
            raise ValueError(f"`blocks` of description_length holds {bad[0]}. Give shares of train above 0, at most 1.")

    def fit(self, layer: LayerData) -> Reading:
        """See `AbstractAnalysis.fit`; no test set is read."""
        blocks = self.code(layer)
        n, k = blocks[-1].end, len(layer.labels.outputs)
        bits, prior = sum(block.bits for block in blocks), sum(block.prior_bits for block in blocks)
        found = [
            Metric("bits", bits),
            Metric("compression", n * math.log2(k) / bits),
            Metric("prior_compression", n * math.log2(k) / prior),
            Metric("gap", max((block.gap for block in blocks if not math.isnan(block.gap)), default=math.nan)),
        ]
        for block in blocks[1:]:
            each = {"block_bits": block.bits / (block.end - block.start), "block_l2": block.l2}
            found += [Metric(name, value, n_train=block.start) for name, value in each.items()]
        return lambda test_sets: found

    def order(self, layer: LayerData) -> Tensor:
        """Return the order in which the training labels are sent."""
        n = len(layer.labels.splits["train"])
        return torch.randperm(n, generator=torch.Generator().manual_seed(layer.seed))

    def code(self, layer: LayerData) -> list[Block]:
        """Code the training labels of a layer."""
        order, targets = self.order(layer), layer.labels.splits["train"].cpu()
        n, k = len(targets), len(layer.labels.outputs)
        ends = sorted({round(share * n) for share in self.blocks} - {0} | {n})
        uniform = ends[0] * math.log2(k)
        blocks = [Block(0, ends[0], uniform, uniform)]
        for start, end in pairwise(ends):
            before, rows = order[:start].sort().values, order[start:end].sort().values
            counts, coded = torch.bincount(targets[before], minlength=k), targets[rows]
            prior = -((counts[coded] + 1).double() / (start + k)).log2().sum().item()
            seen, escape = counts > 0, int((counts == 0).sum()) / (start + k)
            known = seen[coded]
            bits = int((~known).sum()) * math.log2(start + k) - int(known.sum()) * math.log2(1 - escape)
            l2 = gap = math.nan
            if seen.sum() > 1:
                device = layer.train.device
                features, some = picked_rows(layer.train, before), targets[before].to(device)
                evaluate = by_code_length(layer, seen)
                head = best_head(layer, unweighted_logistic(layer), features, some, evaluate)
                to_code, truth = picked_rows(layer.train, rows[known]), coded[known].to(device)
                bits += float(code_length(head.heads, to_code, truth, seen.to(device)).sum())
                l2, gap = head.l2[0], float(head.solution.gap[0])
            blocks.append(Block(start, end, bits, prior, l2, gap))
        return blocks
