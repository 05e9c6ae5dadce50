"""The model: any `nn.Module`."""

from __future__ import annotations

from torch import Tensor, nn


class SpiralNet(nn.Module):
    """A multilayer perceptron of two hidden layers, for points in the plane."""

    def __init__(self, width: int = 16, n_classes: int = 2) -> None:
        """Build the layers.

        Args:
            width: Units of each hidden layer.
            n_classes: Classes.
        """
        super().__init__()
        self.hidden1 = nn.Sequential(nn.Linear(2, width), nn.Tanh())
        self.hidden2 = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.logits = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify points.

        Args:
            x: Points, `[n, 2]`.

        Returns:
            Logits, `[n, n_classes]`.
        """
        out: Tensor = self.logits(self.hidden2(self.hidden1(x)))
        return out
