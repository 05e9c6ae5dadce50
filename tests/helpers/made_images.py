"""A folder of made images in ImageNet's layout: noise of one mean and variance, whose colour tells the class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

EXPONENTS = {"n01_white": 0.0, "n02_pink": 1.0, "n03_brown": 2.0}
"""Amplitude falls as frequency to the power of minus this."""


def make_image_folder(root: Path, train: int, val: int, size: int = 64) -> Path:
    """Write `root/train` and `root/val` with so many images of each of three classes; the same at every call.

    The means of the channels, drawn for each image, say nothing about the class; how neighbours agree says all.
    """
    random = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    frequency[0, 0] = 1
    for part, number in (("train", train), ("val", val)):
        for name, exponent in EXPONENTS.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(number):
                waves = np.fft.fft2(random.normal(size=(3, size, size))) * frequency**-exponent
                waves[:, 0, 0] = 0
                noise = np.fft.ifft2(waves).real
                noise /= noise.std(axis=(1, 2), keepdims=True)
                pixels = 40 * noise + random.uniform(100, 156, size=(3, 1, 1))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(folder / f"{i:03d}.png")
    return root
