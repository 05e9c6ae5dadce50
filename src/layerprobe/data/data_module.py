"""Data module: what those of every kind of data have in common, the loaders of their splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from layerprobe.types import Split


class AbstractDataModule(pl.LightningDataModule, ABC):
    """A data module that makes the loader of any split in one way."""

    @abstractmethod
    def loader_of(self, split: Split) -> DataLoader[Any] | None:
        """Build the loader of a split: of train in training order, of the others in a fixed one; None without one."""

    def train_dataloader(self) -> DataLoader[Any] | None:
        """Build the loader of the training split."""
        return self.loader_of("train")

    def val_dataloader(self) -> DataLoader[Any] | None:
        """Build the loader of the validation split."""
        return self.loader_of("val")

    def test_dataloader(self) -> DataLoader[Any] | None:
        """Build the loader of the test split."""
        return self.loader_of("test")


def loader(
    dataset: Dataset[Any],
    sampler: Sampler[int] | None,
    batch_size: int,
    num_workers: int,
    collate: Callable[[list[Any]], Any] | None = None,
) -> DataLoader[Any]:
    """Build a loader that draws no random number of the global generator.

    A loader draws a base seed for its workers each time that it is iterated, from the global generator unless it has
    its own: with one, no loop over the data moves the random numbers of training. Worker processes stay for the next
    epoch.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        generator=torch.Generator().manual_seed(0),
    )
