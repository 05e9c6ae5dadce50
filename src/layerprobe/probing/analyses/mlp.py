"""Multilayer perceptron of one hidden layer: what a small non-linear classifier reads of a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.analyses.analysis import LayerData
from layerprobe.probing.analyses.trained_networks import AbstractNetworks, AbstractTrained, Slopes
from layerprobe.probing.features.row_blocks import Features


@final
class Perceptrons(AbstractNetworks):
    """Perceptrons of one hidden layer side by side: relu(x W₁ + b₁) W₂ + b₂ of each.

    Args:
        parts: W₁ (s d h), b₁ (s 1 h), W₂ (s h c) and b₂ (s 1 c).
    """

    @classmethod
    def drawn(cls, seeds: int, shape: tuple[int, int, int], like: Features, draws: torch.Generator) -> Perceptrons:
        """Draw weights whose scores have about the features' variance (He et al., 2015); biases are 0.

        `shape` is features, hidden units and outputs; what is drawn comes from the CPU, whatever the device of
        `like`.
        """
        parts = []
        for ins, outs, gain in ((shape[0], shape[1], 2), (shape[1], shape[2], 1)):
            weight = torch.randn(seeds, ins, outs, generator=draws, dtype=like.dtype) * math.sqrt(gain / ins)
            parts += [weight.to(like.device), torch.zeros(seeds, 1, outs, dtype=like.dtype, device=like.device)]
        return cls(*parts)

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "s n c"]:
        """Score samples with each network."""
        return self._outputs(self._hidden(features))

    def _hidden(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "s n h"]:
        weight, bias, *_ = self.parts
        return torch.baddbmm(bias, features.expand(len(weight), -1, -1), weight).relu_()

    def _outputs(self, hidden: Float[Tensor, "s n h"]) -> Float[Tensor, "s n c"]:
        *_, weight, bias = self.parts
        return torch.baddbmm(bias, hidden, weight)

    def gradients(self, features: Float[Tensor, "n d"], slopes: Slopes, l2: float) -> list[Float[Tensor, "s _ _"]]:
        """See `AbstractNetworks.gradients`.

        With hidden units h and δ the mean loss' derivatives by the scores, that of W₂ is hᵀδ + l2·W₂; with
        ε = δ W₂ᵀ where h > 0 and 0 elsewhere, that of W₁ is xᵀε + l2·W₁; those of the biases are the sums of δ and ε.
        """
        first, _, second, _ = self.parts
        hidden = self._hidden(features)
        outer = torch.stack([slopes(each) for each in self._outputs(hidden)]) / len(features)
        inner = (outer @ second.mT) * (hidden > 0)
        return [
            torch.baddbmm(first, features.T.expand(len(first), -1, -1), inner, beta=l2),
            inner.sum(1, keepdim=True),
            torch.baddbmm(second, hidden.mT, outer, beta=l2),
            outer.sum(1, keepdim=True),
        ]


@final
@dataclass(frozen=True)
class MLP(AbstractTrained):
    r"""One hidden layer of rectified units, trained as `AbstractTrained` says.

    The penalty is ½·l2·(‖W₁‖² + ‖W₂‖²).

    Attributes:
        width: Hidden units.
    """

    name: ClassVar[str] = "mlp"
    networks: ClassVar[type[Perceptrons]] = Perceptrons
    width: int = 128

    def drawn(self, layer: LayerData, draws: torch.Generator) -> Perceptrons:
        """See `AbstractTrained.drawn`."""
        shape = (layer.train.shape[1], self.width, len(layer.labels.outputs))
        return Perceptrons.drawn(self.seeds, shape, layer.train, draws)

    def operations(self, layer: LayerData) -> float:
        """See `AbstractTrained.operations`."""
        return 6.0 * self.batch_size * layer.train.shape[1] * self.width * self.seeds
