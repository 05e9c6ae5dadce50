"""Corrupted images: those of any data module or data set, each made harder to read in a way of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from layerprobe.data.corruptions import AbstractCorruption
from layerprobe.data.data_module import AbstractDataModule
from layerprobe.formatting import described
from layerprobe.types import SPLITS, Split


class CorruptedDataset(Dataset[Any]):
    """The samples of a data set with their images corrupted, the same ones each time that they are read.

    What is drawn for a sample depends on the seed and its place alone, so neither order, batch nor worker changes it.

    Args:
        clean: Samples of (image, target), an image as a float tensor (c, h, w).
        corruption: What is done to an image.
        seed: Seed of what is drawn, one number or several.
    """

    def __init__(self, clean: Dataset[Any], corruption: AbstractCorruption, seed: int | Sequence[int] = 0) -> None:
        self.clean = clean
        self.corruption = corruption
        self._seed = [seed] if isinstance(seed, int) else list(seed)

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.clean)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        """Return one sample."""
        return self._corrupted(index, self.clean[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the samples of one batch."""
        together = getattr(self.clean, "__getitems__", None)
        samples = together(indices) if together else [self.clean[index] for index in indices]
        return [self._corrupted(index, sample) for index, sample in zip(indices, samples, strict=True)]

    def _corrupted(self, index: int, sample: Any) -> Any:
        image, *rest = sample
        if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point():
            raise TypeError(
                "Corruptions are made for images, float tensors of (channels, height, width); found "
                f"{described(image)}. Give a data module of images that are tensors already."
            )
        return self.corruption(image, np.random.default_rng([*self._seed, index])), *rest


class CorruptedDataModule(AbstractDataModule):
    """A data module of images with those of every split corrupted; the division into splits stays.

    Args:
        clean: The data module, whose loaders are over map-style data sets of (image, target).
        corruption: What is done to an image.
        seed: Seed of what is drawn; each split has draws of its own.
    """

    def __init__(self, clean: pl.LightningDataModule, corruption: AbstractCorruption, seed: int = 0) -> None:
        super().__init__()
        self.clean = clean
        self.corruption = corruption
        self.seed = seed

    def prepare_data(self) -> None:
        """Fetch what the data module fetches."""
        self.clean.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read what the data module reads."""
        self.clean.setup(stage)  # type: ignore[arg-type]

    def loader_of(self, split: Split) -> DataLoader[Any]:
        """See `AbstractDataModule.loader_of`."""
        return self._corrupted(split, getattr(self.clean, f"{split}_dataloader")())

    def _corrupted(self, split: Split, loader: Any) -> DataLoader[Any]:
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            raise TypeError(
                f"The {split} split of {type(self.clean).__name__} is no DataLoader over a data set with a length, "
                "which its images could be looked up in. Give one."
            )
        corrupted = CorruptedDataset(loader.dataset, self.corruption, [self.seed, SPLITS.index(split)])
        # Made anew and not copied: a copy carries along the arguments from which Lightning makes loaders again.
        kept = (
            "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
            "generator", "persistent_workers", "prefetch_factor",
        )  # fmt: skip
        options = {name: getattr(loader, name) for name in kept}
        if loader.batch_size is None and loader.batch_sampler is None:
            return DataLoader(corrupted, batch_size=None, sampler=loader.sampler, **options)
        if loader.batch_size is None:
            return DataLoader(corrupted, batch_sampler=loader.batch_sampler, **options)
        batches = {name: getattr(loader, name) for name in ("batch_size", "sampler", "drop_last")}
        return DataLoader(corrupted, **batches, **options)
