"""Inception v3 with its auxiliary head, also where nothing is trained."""

from __future__ import annotations

from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import Inception3


@final
class InceptionWithAuxiliary(nn.Module):
    """Runs torchvision's Inception v3 in eval mode with the auxiliary head, which it leaves out there.

    Whether the head runs is decided by the `training` flag of the outermost module alone, and that module has no
    batch normalisation or dropout of its own. So the flag is set for the duration of the call, while every module
    inside stays in the mode that it is in: the head, too, is evaluated with its running statistics.

    Raises:
        ValueError: If it was built without the head.
    """

    def __init__(self, network: Inception3) -> None:
        super().__init__()
        if not network.aux_logits:
            raise ValueError("This Inception v3 has no auxiliary head. Build it with aux_logits=True.")
        self.network = network

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Any:
        """Compute the scores of both heads, as torchvision's `InceptionOutputs`."""
        mode = self.network.training
        self.network.training = True
        try:
            return self.network(images)
        finally:
            self.network.training = mode
