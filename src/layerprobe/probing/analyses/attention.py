"""Attention pooling: what one learned query over the positions of a layer, and a linear head after it, read of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.analyses.analysis import LayerData
from layerprobe.probing.analyses.trained_networks import AbstractNetworks, AbstractTrained, Slopes

_START = 0.1
"""Standard deviation of a query's first values."""


@final
class AttentionPools(AbstractNetworks):
    r"""Attention pools side by side: \(\sum_p α_p x_p W + b\) with \(α = softmax_p(x_p · q / \sqrt d)\).

    Features hold the positions of a sample one after the other, and after the d channels of each 1 where there is such
    a position, 0 where there is none; the latter has no part in the softmax.

    Args:
        parts: q (s d 1), W (s d c) and b (s 1 c).
    """

    def __call__(self, features: Float[Tensor, "n k"]) -> Float[Tensor, "s n c"]:
        """Score samples with each network."""
        _, pooled = self._pooled(self._positions(features))
        return torch.baddbmm(self.parts[2], pooled, self.parts[1])

    def gradients(self, features: Float[Tensor, "n k"], slopes: Slopes, l2: float) -> list[Float[Tensor, "s _ _"]]:
        r"""See `AbstractNetworks.gradients`.

        With z the pooled features and δ the mean loss' derivatives by the scores, that of W is zᵀδ + l2·W, and that of
        b the sum of δ. With g = δ Wᵀ, the derivatives by z, those by the softmax's inputs are α_p (x_p · g - z · g),
        and so that of q is the sum over samples and positions of α_p (x_p · g - z · g) x_p / \(\sqrt d\), + l2·q.
        """
        query, weight, _ = self.parts
        x, there = self._positions(features)
        alpha, pooled = self._pooled((x, there))
        scores = torch.baddbmm(self.parts[2], pooled, weight)
        outer = torch.stack([slopes(each) for each in scores]) / len(x)
        inner = outer @ weight.mT
        along = (x @ inner.permute(1, 2, 0)).permute(2, 0, 1)
        by_logit = alpha * (along - (pooled * inner).sum(2, keepdim=True))
        by_query = (by_logit.transpose(0, 1) @ x).sum(0) / math.sqrt(x.shape[2])
        return [
            by_query[:, :, None] + l2 * query,
            torch.baddbmm(weight, pooled.mT, outer, beta=l2),
            outer.sum(1, keepdim=True),
        ]

    def _positions(self, features: Float[Tensor, "n k"]) -> tuple[Float[Tensor, "n p d"], Float[Tensor, "n p"]]:
        x = features.view(len(features), -1, self.parts[0].shape[1] + 1)
        n = int(x[:, :, -1].sum(1).max())  # none of these samples has more
        return x[:, :n, :-1], x[:, :n, -1]

    def _pooled(
        self, positions: tuple[Float[Tensor, "n p d"], Float[Tensor, "n p"]]
    ) -> tuple[Float[Tensor, "s n p"], Float[Tensor, "s n d"]]:
        """Return the weights of the positions, and the features that they come to."""
        x, there = positions
        logits = (x @ self.parts[0][:, :, 0].T).permute(2, 0, 1) / math.sqrt(x.shape[2])
        alpha = logits.masked_fill(there == 0, -math.inf).softmax(2)
        return alpha, (alpha.transpose(0, 1) @ x).transpose(0, 1)


@final
@dataclass(frozen=True)
class Attention(AbstractTrained):
    """A learned query weighs the positions of a layer, a linear head reads their weighted mean.

    Positions are the tokens of a text (those of no padding), and space or time of any other layer of several axes, in
    which a sample with more than `positions` of them has neighbours averaged. Each channel is standardised over all
    positions of train. Trained as `AbstractTrained` says, with the penalty ½·l2·(‖q‖² + ‖W‖²), from queries near 0,
    which weigh all positions alike: so it begins as the linear head of the mean.

    `error_difference` compares it with the selected linear head, which reads what the reducers make of the layer. A
    layer without positions has no figures.

    Attributes:
        positions: Positions that are kept of a sample, at most; two at least.
    """

    name: ClassVar[str] = "attention"
    networks: ClassVar[type[AttentionPools]] = AttentionPools
    at_least: ClassVar[Mapping[str, int]] = {"positions": 2}
    learning_rate: float = 1e-2
    positions: int = 32

    def drawn(self, layer: LayerData, draws: torch.Generator) -> AttentionPools:
        """See `AbstractTrained.drawn`."""
        assert layer.positions is not None
        like, c = layer.positions.train, len(layer.labels.outputs)
        d = like.shape[1] // layer.positions.n - 1
        query = _START * torch.randn(self.seeds, d, 1, generator=draws, dtype=like.dtype)
        rest = (torch.zeros(self.seeds, *shape, dtype=like.dtype) for shape in ((d, c), (1, c)))
        return AttentionPools(*(part.to(like.device) for part in (query, *rest)))

    def operations(self, layer: LayerData) -> float:
        """See `AbstractTrained.operations`."""
        assert layer.positions is not None
        return 8.0 * self.batch_size * layer.positions.train.shape[1] * self.seeds
