"""Corruptions of images: noise, blur, rotation and translation, of five severities."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine, gaussian_blur


@dataclass(frozen=True)
class AbstractCorruption(ABC):
    """Makes an image harder to read; a random draw comes from the generator that it is given.

    Attributes:
        severity: 1 (hardly seen) to 5.
    """

    strengths: ClassVar[tuple[float, float, float, float, float]]
    severity: int = 3

    def __post_init__(self) -> None:
        if isinstance(self.severity, bool) or self.severity not in range(1, 6):
            raise ValueError(f"The severity of {type(self).__name__} is {self.severity!r}. Give 1, 2, 3, 4 or 5.")

    @property
    def strength(self) -> float:
        """What the severity stands for."""
        return self.strengths[self.severity - 1]

    @abstractmethod
    def __call__(self, image: Float[Tensor, "c h w"], generator: np.random.Generator) -> Float[Tensor, "c h w"]:
        """Corrupt an image.

        Args:
            image: The image, in any range of values; it is left as it is.
            generator: Gives what is drawn.
        """


class Clean(AbstractCorruption):
    """Images as they are, at any severity: what a sweep over corruptions compares the others with."""

    strengths = (0.0, 0.0, 0.0, 0.0, 0.0)

    def __call__(self, image: Float[Tensor, "c h w"], generator: np.random.Generator) -> Float[Tensor, "c h w"]:
        """See `AbstractCorruption.__call__`."""
        return image


class Noise(AbstractCorruption):
    """Normal noise, with the standard deviations of Hendrycks & Dietterich (2019) as shares of the image's range."""

    strengths = (0.08, 0.12, 0.18, 0.26, 0.38)

    def __call__(self, image: Float[Tensor, "c h w"], generator: np.random.Generator) -> Float[Tensor, "c h w"]:
        """See `AbstractCorruption.__call__`; the image keeps its range."""
        low, high = image.amin(), image.amax()
        drawn = torch.from_numpy(generator.standard_normal(tuple(image.shape), dtype=np.float32)).to(image)
        return (image + self.strength * (high - low) * drawn).clamp(low, high)


class Blur(AbstractCorruption):
    """A Gaussian blur, its standard deviation a share of the shorter side."""

    strengths = (0.02, 0.04, 0.06, 0.08, 0.12)

    def __call__(self, image: Float[Tensor, "c h w"], generator: np.random.Generator) -> Float[Tensor, "c h w"]:
        """See `AbstractCorruption.__call__`."""
        deviation = self.strength * min(image.shape[-2:])
        reach = min(math.ceil(3 * deviation), min(image.shape[-2:]) - 1)
        return gaussian_blur(image, [2 * reach + 1] * 2, [deviation] * 2) if reach else image


class Rotation(AbstractCorruption):
    """A rotation by so many degrees to either side; corners get the image's smallest value."""

    strengths = (10.0, 20.0, 30.0, 45.0, 60.0)

    def __call__(self, image: Float[Tensor, "c h w"], generator: np.random.Generator) -> Float[Tensor, "c h w"]:
        """See `AbstractCorruption.__call__`."""
        return _moved(image, float(generator.choice([-1.0, 1.0])) * self.strength, (0, 0))


class Translation(AbstractCorruption):
    """A shift in a random direction by a share of the shorter side; edges get the image's smallest value."""

    strengths = (0.05, 0.1, 0.15, 0.2, 0.3)

    def __call__(self, image: Float[Tensor, "c h w"], generator: np.random.Generator) -> Float[Tensor, "c h w"]:
        """See `AbstractCorruption.__call__`."""
        angle, distance = generator.uniform(0, 2 * math.pi), self.strength * min(image.shape[-2:])
        return _moved(image, 0.0, (round(distance * math.cos(angle)), round(distance * math.sin(angle))))


def _moved(image: Tensor, angle: float, shift: tuple[int, int]) -> Tensor:
    low = image.amin()  # what comes in from outside is 0, without a seam
    return affine(image - low, angle, list(shift), 1.0, [0.0], interpolation=InterpolationMode.BILINEAR) + low
