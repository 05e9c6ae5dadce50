"""Handwritten digits that come inside scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from layerprobe.data.in_memory import AbstractInMemoryDataModule, InMemoryDataset
from layerprobe.data.samplers import ShuffledOrder
from layerprobe.types import Split


class DigitsDataModule(AbstractInMemoryDataModule):
    """The 1,797 digits of scikit-learn's `load_digits`, 1 x 8 x 8, pixels in [-0.5, 0.5].

    The splits are stratified: every class has the same share of each, to within one sample.

    Args:
        val_size: Validation samples.
        test_size: Test samples.
        split_seed: Seed of the splits alone, so that runs with different seeds are tested on the same samples.
        batch_size: Samples in a batch.
        num_workers: Worker processes of each loader.
        seed: Seed of the training order.
    """

    def __init__(
        self,
        val_size: int = 360,
        test_size: int = 720,
        split_seed: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(10, batch_size, num_workers, partial(ShuffledOrder, seed=seed))
        self.val_size = val_size
        self.test_size = test_size
        self.split_seed = split_seed
        self.seed = seed

    def read_splits(self) -> Mapping[Split, InMemoryDataset]:
        """Read the digits and divide them.

        Raises:
            ValueError: If the sizes leave a split without a sample of each class.
        """
        digits = load_digits()
        sizes, n = (self.val_size, self.test_size), len(digits.target)
        if min(sizes) < self.n_classes or sum(sizes) > n - self.n_classes:
            raise ValueError(
                f"val_size={self.val_size:,} and test_size={self.test_size:,} leave a split without a sample of each "
                f"class: give at least {self.n_classes} each, and at most {n - self.n_classes:,} of the {n:,} digits "
                "together (data.val_size=360 data.test_size=720)"
            )
        images = torch.from_numpy(digits.images).to(torch.float32).unsqueeze(1)
        targets = torch.from_numpy(digits.target)
        rest, test = self._divide(np.arange(len(targets)), digits.target, self.test_size)
        train, val = self._divide(rest, digits.target, self.val_size)
        parts: dict[Split, np.ndarray] = {"train": train, "val": val, "test": test}
        return {
            split: InMemoryDataset(images[part], targets[part], scale=1 / 16, shift=-0.5)
            for split, part in parts.items()
        }

    def _divide(self, indices: np.ndarray, targets: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        large, small = train_test_split(
            indices, test_size=size, random_state=self.split_seed, stratify=targets[indices]
        )
        return np.sort(large), np.sort(small)
