"""Data sets that fit into memory: their samples, gathered and rescaled a batch at a time, and their data module."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int, Integer, Shaped
from torch import Tensor
from torch import distributed as dist
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler

from layerprobe.data.data_module import AbstractDataModule, loader
from layerprobe.data.samplers import ShardedOrder
from layerprobe.types import Split

Sample = tuple[Float[Tensor, "*shape"], Int[Tensor, ""]]


class InMemoryDataset(Dataset[Sample]):
    """Pairs of (input, class index) that lie in memory as two tensors.

    An input is `stored * scale + shift` as float32, so that a set of images may stay in memory as bytes.

    The tensors are not copied.

    Args:
        stored: The inputs as they lie in memory, of any type.
        targets: Class indices.
        scale: Factor from stored values to inputs.
        shift: Summand from scaled values to inputs.
    """

    def __init__(
        self,
        stored: Shaped[Tensor, "n ..."],
        targets: Integer[Tensor, " n"],
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> None:
        self.stored = stored
        self.targets = targets.long()
        self._scale = scale
        self._shift = shift

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        """Return one sample."""
        return self._inputs(self.stored[index]), self.targets[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the samples of one batch: the loader's way around one call for each sample."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        inputs = self._inputs(self.stored[chosen])
        return list(zip(inputs.unbind(), self.targets[chosen].unbind(), strict=True))

    def _inputs(self, stored: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return stored.to(torch.float32) * self._scale + self._shift


class AbstractInMemoryDataModule(AbstractDataModule):
    """Batches of (input, class index) for the three splits; only the training loader shuffles.

    Args:
        n_classes: Number of classes.
        batch_size: Samples in a batch; the last one of an epoch may be smaller.
        num_workers: Worker processes of each loader; batches do not depend on it.
        training_order: Builds the order in which training samples are drawn, of their number.
    """

    def __init__(
        self, n_classes: int, batch_size: int, num_workers: int, training_order: Callable[[int], Sampler[int]]
    ) -> None:
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
        """Read the data, once; every stage needs the same."""
        if not self._splits:
            self._splits = self.read_splits()

    def dataset(self, split: Split) -> InMemoryDataset:
        """Give one split, in its fixed order.

        Raises:
            RuntimeError: If `setup` has not been called.
        """
        if not self._splits:
            raise RuntimeError(f"{type(self).__name__} has not read its data: call prepare_data() and setup() first")
        return self._splits[split]

    def loader_of(self, split: Split) -> DataLoader[Sample]:
        """See `AbstractDataModule.loader_of`; several processes share the training split out."""
        dataset = self.dataset(split)
        order = self._training_order(len(dataset)) if split == "train" else SequentialSampler(dataset)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            # Of the others each reads the whole: sharing them out evenly would count some samples twice.
            share = (dist.get_rank(), dist.get_world_size()) if split == "train" else (0, 1)
            order = ShardedOrder(order, *share)
        return loader(dataset, order, self.batch_size, self.num_workers)
