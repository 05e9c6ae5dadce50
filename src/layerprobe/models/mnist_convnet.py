"""The convolutional network that the first paper on linear probes looks into."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

from torch import nn


@final
class MnistConvNet(nn.Sequential):
    """The MNIST network of Alain & Bengio (arXiv 1610.01644), its modules named as the paper names its probe points.

    Weights start from a normal distribution with standard deviation 0.1, cut at two of them as TensorFlow does; biases
    start at 0 in the first convolution and at 0.1 elsewhere.

    The weights are drawn from the global generator: seed it before.

    Args:
        n_classes: Number of scores.
        dropout: Share of the last hidden layer's units that training leaves out.
    """

    def __init__(self, n_classes: int = 10, dropout: float = 0.5) -> None:
        super().__init__(two_convolutions(5, 7, 512, n_classes, dropout))
        for name, parameter in self.named_parameters():
            if name.endswith(".weight"):
                nn.init.trunc_normal_(parameter, std=_SD, a=-2 * _SD, b=2 * _SD)
            else:
                nn.init.constant_(parameter, 0.0 if name.startswith("conv1") else 0.1)


_SD = 0.1


def two_convolutions(
    kernel_size: int, side: int, hidden: int, n_classes: int, dropout: float
) -> OrderedDict[str, nn.Module]:
    """Make the modules of a small convolutional network, named as the paper names its probe points.

    Args:
        kernel_size: Side of the convolutions' kernels.
        side: Side of the images after both poolings.
        hidden: Units of the last hidden layer.
        n_classes: Number of scores.
        dropout: Share of the last hidden layer's units that training leaves out.

    Returns:
        Two convolutions and two linear layers, in order.
    """
    return OrderedDict(
        conv1_preact=nn.Conv2d(1, 32, kernel_size, padding="same"),
        conv1_postact=nn.ReLU(),
        conv1_postpool=nn.MaxPool2d(2),
        conv2_preact=nn.Conv2d(32, 64, kernel_size, padding="same"),
        conv2_postact=nn.ReLU(),
        conv2_postpool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1_preact=nn.Linear(64 * side**2, hidden),
        fc1_postact=nn.ReLU(),
        dropout=nn.Dropout(dropout),
        logits=nn.Linear(hidden, n_classes),
    )
