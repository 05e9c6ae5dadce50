"""A fully connected network of any depth, with at most one connection that skips layers."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from layerprobe.models.classifier import Classifier
from layerprobe.models.learner import OptimizerFactory, SchedulerFactory


@final
class DeepMLP(nn.Module):
    """`layers.0` to `layers.<depth - 1>`, each linear and activation, then `logits`.

    With a skip from layer s to layer t, the output of layer s is added to the input of layer t. So does the
    pathological network of Alain & Bengio (arXiv 1610.01644, figure 6), with 128 layers of 128 units and a skip from 0
    to 64: its layer k is the block `layers.k` here.

    With a_k the activation and h_-1 the flattened input,

        h_k = a_k(W_k (h_{k-1} + [k = t] h_s) + b_k),    scores = W h_{depth-1} + b.

    The weights are drawn from the global generator: seed it before.

    Args:
        input_shape: Shape of one input, such as (1, 28, 28).
        n_classes: Number of scores.
        depth: Hidden layers.
        width: Units of each.
        activation: What follows each linear map, copied for each; `torch.nn.Identity` leaves a linear network.
        skip: Layers s and t, t at least s + 2; None for a plain network.
        initialise: Draws a weight in place, such as `torch.nn.init.xavier_normal_`. Biases start at 0.

    Raises:
        ValueError: Where there is no layer or unit, or the skip does not lead from one layer past another.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        n_classes: int,
        depth: int,
        width: int,
        activation: nn.Module,
        skip: Sequence[int] | None,
        initialise: Callable[[Tensor], Any],
    ) -> None:
        super().__init__()
        if depth < 1 or width < 1:
            raise ValueError(f"depth={depth}, width={width}: a network needs at least one layer of one unit")
        if skip is not None and not (len(skip) == 2 and 0 <= skip[0] < skip[1] - 1 and skip[1] < depth):
            raise ValueError(
                f"skip={list(skip)} of {depth} layers: expected two numbers s and t with 0 <= s, s + 2 <= t < {depth}, "
                "such as skip=[0,64] of 128, or skip=null"
            )
        self.skip = None if skip is None else (skip[0], skip[1])
        self.flatten = nn.Flatten()
        self.layers = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    preact=_linear(math.prod(input_shape) if k == 0 else width, width, initialise),
                    postact=copy.deepcopy(activation),
                )
            )
            for k in range(depth)
        )
        self.logits = _linear(width, n_classes, initialise)

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n c"]:
        """Compute the scores."""
        start, end = self.skip or (None, None)
        hidden = kept = self.flatten(inputs)
        for k, layer in enumerate(self.layers):
            hidden = layer(hidden + kept if k == end else hidden)
            if k == start:
                kept = hidden
        return self.logits(hidden)


def _linear(n_inputs: int, n_outputs: int, initialise: Callable[[Tensor], Any]) -> nn.Linear:
    linear = nn.Linear(n_inputs, n_outputs)
    initialise(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def deep_mlp(
    input_shape: Sequence[int],
    n_classes: int,
    depth: int,
    width: int,
    activation: nn.Module,
    skip: Sequence[int] | None,
    initialise: Callable[[Tensor], Any],
    optimizer: OptimizerFactory,
    scheduler: SchedulerFactory | None,
    loss: nn.Module,
) -> Classifier:
    """Build a `DeepMLP` of the arguments up to `initialise`, and the `Classifier` of the others that trains it."""
    network = DeepMLP(input_shape, n_classes, depth, width, activation, skip, initialise)
    return Classifier(network, optimizer, scheduler, loss)
