"""Pretrained networks for images, of the Hugging Face hub or of a folder."""

from __future__ import annotations

from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from layerprobe.models.pretrained import from_the_hub


@final
class VisionModel(nn.Module):
    """A network of the package `transformers`, called with a batch of images.

    Of a network for images and texts, such as CLIP, it is the part for images, unless that has class scores of its own.

    Args:
        model: A `PreTrainedModel`.
        whole: Whether all of it is called with images, as a classifier is.
    """

    def __init__(self, model: nn.Module, whole: bool = False) -> None:
        super().__init__()
        part = None if whole else getattr(model, "vision_model", None)
        self.model: nn.Module = model if part is None else part

    def forward(self, images: Float[Tensor, "n channels height width"]) -> Any:
        """Compute one score for each class, where the network has them, or else its outputs."""
        outputs = self.model(pixel_values=images.to(getattr(self.model, "dtype", images.dtype)))
        scores = getattr(outputs, "logits", None)
        return outputs if scores is None else scores


def vision_model(
    name: str,
    revision: str | None = None,
    head: bool = True,
    dtype: str = "float32",
    weights: str = "pretrained",
    device_map: str | dict[str, Any] | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> VisionModel:
    """Load a network by `AutoModelForImageClassification`, or by `AutoModel`.

    It takes what `encoder` takes, and `head`: whether there is a score for each class; False for DINOv2 or CLIP, say.

    Returns:
        The network in training mode, as torchvision's are; probing sets its own.

    Raises:
        ImportError: If a package is missing.
        ModelError: If the network is not there, not open to you, or has no weights.
    """
    auto = "AutoModelForImageClassification" if head else "AutoModel"
    network = from_the_hub(auto, name, revision, dtype, weights, device_map, seed, trust_remote_code)
    return VisionModel(network, whole=head).train()
