"""The data module for images that are read one by one, and divided into splits where their source does not."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Subset

from layerprobe.data.data_module import AbstractDataModule, loader
from layerprobe.data.samplers import ShuffledOrder
from layerprobe.statistics.strata import stratified_order
from layerprobe.types import SPLITS, Split

log = logging.getLogger("layerprobe")

_DEFAULT_SHARE, _DEFAULT_MOST = 0.2, 10_000


@dataclass(frozen=True)
class Images:
    """A data set, and what its images are for.

    Attributes:
        name: How messages call it.
        dataset: Pairs of (input, class index).
        targets: The class index of each.
        splits: The splits that it is divided into.
    """

    name: str
    dataset: Dataset[Any]
    targets: np.ndarray
    splits: Sequence[Split]


class AbstractImageDataModule(AbstractDataModule):
    """Images that are read and transformed one by one.

    What is held out or chosen has the classes in their shares, and is the same for every run seed.

    Args:
        train_size: Training images, as a number or a share of the data set that they are chosen from; by default
            all that are left.
        val_size: Validation images, likewise; by default all of a data set of their own, else a fifth of the
            images, 10,000 at most.
        test_size: Test images, likewise.
        batch_size: Images in a batch; the last one of an epoch may be smaller.
        num_workers: Worker processes of each loader.
        split_seed: Seed of which images are chosen and held out.
        seed: Seed of the training order.

    Attributes:
        n_classes: Number of classes, known after `setup`.
    """

    def __init__(
        self,
        train_size: int | float | None,
        val_size: int | float | None,
        test_size: int | float | None,
        batch_size: int,
        num_workers: int,
        split_seed: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.n_classes = 0
        self._sizes: dict[Split, int | float | None] = {"train": train_size, "val": val_size, "test": test_size}
        self._num_workers = num_workers
        self._split_seed = split_seed
        self._seed = seed
        self._splits: dict[Split, Dataset[Any]] = {}

    @abstractmethod
    def read(self) -> tuple[Sequence[Images], int]:
        """Open every data set.

        Returns:
            The data sets, which have every split once between them, and the number of classes.

        Raises:
            DataError: If one cannot be read.
        """

    def setup(self, stage: str | None = None) -> None:
        """Open the data sets and divide them, once; every stage needs the same.

        Raises:
            DataError: If one cannot be read.
            ValueError: If there are fewer images than asked for.
        """
        if self._splits:
            return
        found, self.n_classes = self.read()
        divided: dict[Split, Dataset[Any]] = {}
        for i, images in enumerate(found):
            parts = self._divide(images, i)
            divided |= {split: Subset(images.dataset, sorted(part.tolist())) for split, part in parts.items()}
            counts = ", ".join(f"{len(parts[split]):,} images for {split}" for split in images.splits)
            log.info("%s: %s", images.name, counts)
        self._splits = {split: divided[split] for split in SPLITS}

    def _divide(self, images: Images, part: int) -> dict[Split, np.ndarray]:
        """Choose so many images for each split of a data set, held-out ones first."""
        n, splits = len(images.targets), images.splits
        alone, fifth = len(splits) == 1, min(round(_DEFAULT_SHARE * n), _DEFAULT_MOST)
        sizes: dict[Split, int] = {
            split: _count(self._sizes[split], n, n if alone else fifth) for split in splits if split != "train"
        }
        if "train" in splits:
            sizes["train"] = _count(self._sizes["train"], n, n - sum(sizes.values()))
        if min(sizes.values()) < 1 or sum(sizes.values()) > n:
            wanted = ", ".join(f"{max(size, 0):,} for {split} (data.{split}_size)" for split, size in sizes.items())
            raise ValueError(
                f"{images.name} has {n:,} images; it cannot give {wanted}. Choose numbers of at least 1 that fit into "
                "them, or shares such as 0.2."
            )
        targets, random = images.targets, np.random.default_rng((self._split_seed, part))
        rows = (random.permutation(np.flatnonzero(targets == target)) for target in np.unique(targets))
        order, start = stratified_order(n, ((samples, random.random()) for samples in rows)), 0
        chosen: dict[Split, np.ndarray] = {}
        for split, size in sizes.items():
            chosen[split], start = order[start : start + size], start + size
        return chosen

    def loader_of(self, split: Split) -> DataLoader[Any]:
        """See `AbstractDataModule.loader_of`."""
        dataset: Any = self._splits[split]
        order = ShuffledOrder(len(dataset), self._seed) if split == "train" else None
        return loader(dataset, order, self.batch_size, self._num_workers)


def _count(size: int | float | None, n: int, default: int) -> int:
    """Count samples: a share of at most 1.0 of n, or a whole number."""
    if size is None:
        return default
    return round(size * n) if isinstance(size, float) and 0 < size <= 1 else int(size)
