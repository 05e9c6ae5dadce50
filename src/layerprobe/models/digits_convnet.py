"""A small convolutional network for 8 x 8 digits."""

from __future__ import annotations

from typing import final

from torch import nn

from layerprobe.models.mnist_convnet import two_convolutions


@final
class DigitsConvNet(nn.Sequential):
    """The MNIST network's small sibling: two convolutions and two linear layers, the same names.

    The weights are drawn as PyTorch's layers do, from the global generator: seed it before.

    Args:
        n_classes: Number of scores.
        dropout: Share of the last hidden layer's units that training leaves out.
    """

    def __init__(self, n_classes: int = 10, dropout: float = 0.5) -> None:
        super().__init__(two_convolutions(3, 2, 128, n_classes, dropout))
