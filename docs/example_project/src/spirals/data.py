"""The data set: any `LightningDataModule` whose batches are (input, target)."""

from __future__ import annotations

import math

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class SpiralsDataModule(pl.LightningDataModule):
    """Points of two spirals that are wound around one another."""

    def __init__(self, n_samples: int = 300, noise: float = 0.05, batch_size: int = 50, seed: int = 0) -> None:
        """Choose how many points there are.

        Args:
            n_samples: Points of each split.
            noise: Standard deviation of a point's distance from its spiral, on each axis.
            batch_size: Points in a batch.
            seed: Seed of the points and of their order.
        """
        super().__init__()
        self.n_samples, self.noise, self.batch_size, self.seed = n_samples, noise, batch_size, seed

    def train_dataloader(self) -> DataLoader:
        """The training split, in random order."""
        order = torch.Generator().manual_seed(self.seed)
        return DataLoader(self._points(0), self.batch_size, shuffle=True, generator=order)

    def val_dataloader(self) -> DataLoader:
        """The validation split."""
        return DataLoader(self._points(1), self.batch_size)

    def test_dataloader(self) -> DataLoader:
        """The test split."""
        return DataLoader(self._points(2), self.batch_size)

    def _points(self, split: int) -> TensorDataset:
        generator = torch.Generator().manual_seed(3 * self.seed + split)
        target = torch.arange(self.n_samples) % 2
        radius = torch.rand(self.n_samples, generator=generator)
        angle = 3 * math.pi * radius + math.pi * target
        points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
        return TensorDataset(points + self.noise * torch.randn(points.shape, generator=generator), target)
