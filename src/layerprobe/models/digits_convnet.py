"""A small convolutional network for 8 x 8 digits."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

from torch import nn


@final
class DigitsConvNet(nn.Sequential):
    """The MNIST network's small sibling: two convolutions and two linear layers, the same names."""

    def __init__(self, n_classes: int = 10, dropout: float = 0.5) -> None:
        """Draw the weights as PyTorch's layers do, from the global generator: seed it before.

        Args:
            n_classes: Number of scores.
            dropout: Share of the last hidden layer's units that training leaves out.
        """
        super().__init__(
            OrderedDict(
                conv1_preact=nn.Conv2d(1, 32, kernel_size=3, padding="same"),
                conv1_postact=nn.ReLU(),
                conv1_postpool=nn.MaxPool2d(2),
                conv2_preact=nn.Conv2d(32, 64, kernel_size=3, padding="same"),
                conv2_postact=nn.ReLU(),
                conv2_postpool=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1_preact=nn.Linear(64 * 2 * 2, 128),
                fc1_postact=nn.ReLU(),
                dropout=nn.Dropout(dropout),
                logits=nn.Linear(128, n_classes),
            )
        )
