"""The data module for sets that fit into memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import pytorch_lightning as pl
from torch import distributed as dist
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from layerprobe.data.in_memory_dataset import InMemoryDataset, Sample
from layerprobe.data.samplers import ShardedOrder, loader
from layerprobe.types import Split


class AbstractInMemoryDataModule(pl.LightningDataModule, ABC):
    """Batches of (input, class index) for the three splits; only the training loader shuffles.

    Attributes:
        n_classes: Number of classes.
        batch_size: Samples in a batch; the last one of an epoch may be smaller.
        num_workers: Worker processes of each loader; batches do not depend on it.
    """

    def __init__(
        self, n_classes: int, batch_size: int, num_workers: int, training_order: Callable[[int], Sampler[int]]
    ) -> None:
        """Read nothing yet.

        Args:
            n_classes: Number of classes.
            batch_size: Samples in a batch.
            num_workers: Worker processes of each loader.
            training_order: Builds the order in which training samples are drawn, of their number.
        """
        super().__init__()
        self.n_classes = n_classes
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._training_order = training_order
        self._splits: Mapping[Split, InMemoryDataset] = {}

    @abstractmethod
    def read_splits(self) -> Mapping[Split, InMemoryDataset]:
        """Read all three splits.

        Raises:
            DataError: If they cannot be read.
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
        order = self._training_order(len(dataset))
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            order = ShardedOrder(order, dist.get_rank(), dist.get_world_size())
        return loader(dataset, order, self.batch_size, self.num_workers)

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
        return loader(self.dataset(split), order, self.batch_size, self.num_workers)
