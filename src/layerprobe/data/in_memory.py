"""The data module for sets that fit into memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import pytorch_lightning as pl
import torch
from torch import distributed as dist
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from layerprobe.data.in_memory_dataset import InMemoryDataset, Sample
from layerprobe.data.samplers import ShardedOrder
from layerprobe.types import Split


class AbstractInMemoryDataModule(pl.LightningDataModule, ABC):
    """Batches of (input, class index) for the three splits; only the training loader shuffles.

    Attributes:
        n_classes: Number of classes.
        batch_size: Samples in a batch; the last one of an epoch may be smaller.
        num_workers: Worker processes of each loader; batches do not depend on it.
    """

    def __init__(self, n_classes: int, batch_size: int, num_workers: int) -> None:
        """Read nothing yet.

        Args:
            n_classes: Number of classes.
            batch_size: Samples in a batch.
            num_workers: Worker processes of each loader.
        """
        super().__init__()
        self.n_classes = n_classes
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._splits: Mapping[Split, InMemoryDataset] = {}

    @abstractmethod
    def read_splits(self) -> Mapping[Split, InMemoryDataset]:
        """Read all three splits.

        Raises:
            DataError: If they cannot be read.
        """

    @abstractmethod
    def training_order(self, n_samples: int) -> Sampler[int]:
        """Build the order in which training samples are drawn.

        Args:
            n_samples: Samples in the training split.
        """

    def setup(self, stage: str | None = None) -> None:
        """Read the data, once; every stage needs the same.

        Args:
            stage: Lightning's stage; of no effect.
        """
        if not self._splits:
            self._splits = self.read_splits()

    def dataset(self, split: Split) -> InMemoryDataset:
        """Give one split, in its fixed order.

        Args:
            split: Name of the split.

        Raises:
            RuntimeError: If `setup` has not been called.
        """
        if not self._splits:
            raise RuntimeError(f"{type(self).__name__} has not read its data: call prepare_data() and setup() first")
        return self._splits[split]

    def train_dataloader(self) -> DataLoader[Sample]:
        """Build the loader of the training split, in training order; several processes share it out."""
        dataset = self.dataset("train")
        order = self.training_order(len(dataset))
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            order = ShardedOrder(order, dist.get_rank(), dist.get_world_size())
        return self._loader(dataset, order)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Build the loader of the validation split, in its fixed order."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Build the loader of the test split, in its fixed order."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: Split) -> DataLoader[Sample]:
        # Each of several processes reads the whole: sharing it out evenly would count some samples twice.
        order: Sampler[int] = SequentialSampler(self.dataset(split))
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            order = ShardedOrder(order, 0, 1)
        return self._loader(self.dataset(split), order)

    def _loader(self, dataset: InMemoryDataset, sampler: Sampler[int]) -> DataLoader[Sample]:
        # A loader draws a base seed for its workers each time that it is iterated, from the global generator unless it
        # has its own: with one, no loop over the data moves the random numbers of training.
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator().manual_seed(0),
        )
