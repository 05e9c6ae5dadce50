"""A plain convolutional network of any depth."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from layerprobe.models.classifier import Classifier
from layerprobe.models.learner import OptimizerFactory, SchedulerFactory


@final
class DeepConvNet(nn.Module):
    """`layers.0` to `layers.<depth - 1>`, each a 3 x 3 convolution and activation of one size, then `logits`.

    The scores are linear in the last layer: without an activation, the whole network is one linear map.

    The weights are drawn from the global generator: seed it before.

    Args:
        input_shape: Channels, height and width of an input.
        n_classes: Number of scores.
        depth: Convolutions.
        channels: Channels of each.
        activation: What follows each convolution, copied for each; `torch.nn.Identity` leaves a linear network.
        initialise: Draws a weight in place, such as `torch.nn.init.xavier_normal_`. Biases start at 0.

    Raises:
        ValueError: Where there is no layer or channel.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        n_classes: int,
        depth: int,
        channels: int,
        activation: nn.Module,
        initialise: Callable[[Tensor], Any],
    ) -> None:
        super().__init__()
        if depth < 1 or channels < 1:
            raise ValueError(f"depth={depth}, channels={channels}: a network needs at least one layer of one channel")
        n_inputs, height, width = input_shape
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    OrderedDict(
                        preact=nn.Conv2d(n_inputs if k == 0 else channels, channels, kernel_size=3, padding="same"),
                        postact=copy.deepcopy(activation),
                    )
                )
                for k in range(depth)
            )
        )
        self.flatten = nn.Flatten()
        self.logits = nn.Linear(channels * height * width, n_classes)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                initialise(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, inputs: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n c"]:
        """Compute the scores."""
        return self.logits(self.flatten(self.layers(inputs)))


def deep_convnet(
    input_shape: Sequence[int],
    n_classes: int,
    depth: int,
    channels: int,
    activation: nn.Module,
    initialise: Callable[[Tensor], Any],
    optimizer: OptimizerFactory,
    scheduler: SchedulerFactory | None,
    loss: nn.Module,
) -> Classifier:
    """Build a `DeepConvNet` of the arguments up to `initialise`, and the `Classifier` of the others that trains it."""
    network = DeepConvNet(input_shape, n_classes, depth, channels, activation, initialise)
    return Classifier(network, optimizer, scheduler, loss)
