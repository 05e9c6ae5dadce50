"""Images in folders, one for each class, as ImageNet lies on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.models import get_weight

from layerprobe.data.errors import DataNotFoundError
from layerprobe.data.order import ShuffledOrder
from layerprobe.types import Split


class ImageFolderDataModule(pl.LightningDataModule):
    """`root/train/CLASS/*` and `root/val/CLASS/*`, read and transformed image by image.

    The labelled images of `val`, ImageNet's own test set for all that is published about it, are the test split.
    Validation is held out of `train`, at random but the same for every run seed, as is the choice of the images where a
    size below the folder's is asked for.

    Attributes:
        n_classes: Number of classes, known after `setup`.
        batch_size: Images in a batch; the last one of an epoch may be smaller.
    """

    def __init__(
        self,
        root: str | Path,
        transform: Callable[[Any], torch.Tensor],
        train_size: int | None = None,
        val_size: int = 10_000,
        test_size: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        split_seed: int = 0,
        seed: int = 0,
    ) -> None:
        """Read nothing yet.

        Args:
            root: Folder that holds `train` and `val`.
            transform: Makes the network's input of a PIL image, such as `weights.transforms()` of torchvision.
            train_size: Training images; by default all that validation leaves.
            val_size: Validation images, held out of `train`.
            test_size: Test images; by default all of `val`.
            batch_size: Images in a batch.
            num_workers: Worker processes of each loader.
            split_seed: Seed of which images are chosen and held out.
            seed: Seed of the training order.
        """
        super().__init__()
        self.root = Path(root).expanduser()
        self.batch_size = batch_size
        self.n_classes = 0
        self._transform = transform
        self._sizes: dict[Split, int | None] = {"train": train_size, "val": val_size, "test": test_size}
        self._num_workers = num_workers
        self._split_seed = split_seed
        self._seed = seed
        self._splits: dict[Split, Dataset[Any]] = {}

    def setup(self, stage: str | None = None) -> None:
        """List the files, once; every stage needs the same.

        Args:
            stage: Lightning's stage; of no effect.

        Raises:
            DataNotFoundError: If a folder is missing or has no class with an image.
            ValueError: If the two folders have different classes, or fewer images than asked for.
        """
        if self._splits:
            return
        held, test = self._folder("train"), self._folder("val")
        if held.classes != test.classes:
            differing = sorted(set(held.classes) ^ set(test.classes))
            raise ValueError(
                f"{self.root}/train and {self.root}/val have different classes: {', '.join(differing[:5])} in one "
                "only. Give both the same folders."
            )
        self.n_classes = len(held.classes)
        order = np.random.default_rng(self._split_seed).permutation(len(held))
        val_size = self._sizes["val"] or 0
        train_size = len(held) - val_size if self._sizes["train"] is None else self._sizes["train"]
        if val_size < 1 or train_size < 1 or val_size + train_size > len(held):
            raise ValueError(
                f"{self.root}/train has {len(held):,} images, too few for data.train_size={train_size:,} and "
                f"data.val_size={val_size:,}. Choose sizes of at least 1 that fit into them."
            )
        chosen = np.random.default_rng((self._split_seed, 1)).permutation(len(test))
        test_size = len(test) if self._sizes["test"] is None else self._sizes["test"]
        if not 1 <= test_size <= len(test):
            raise ValueError(f"data.test_size={test_size:,}: {self.root}/val has 1 to {len(test):,} images to choose.")
        self._splits = {
            "train": _subset(held, order[val_size : val_size + train_size]),
            "val": _subset(held, order[:val_size]),
            "test": _subset(test, chosen[:test_size]),
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Build the loader of the training split, in training order."""
        dataset = self._splits["train"]
        return self._loader(dataset, ShuffledOrder(len(dataset), self._seed))  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        """Build the loader of the validation split, in its fixed order."""
        return self._loader(self._splits["val"])

    def test_dataloader(self) -> DataLoader[Any]:
        """Build the loader of the test split, in its fixed order."""
        return self._loader(self._splits["test"])

    def _folder(self, name: str) -> ImageFolder:
        folder = self.root / name
        advice = "Wanted is ImageNet's layout, train/CLASS/IMAGE and val/CLASS/IMAGE; say where it lies: data.root=DIR"
        if not folder.is_dir():
            raise DataNotFoundError(f"There is no folder {folder.absolute()}.\n{advice}")
        try:
            return ImageFolder(str(folder), self._transform)
        except FileNotFoundError as error:
            raise DataNotFoundError(f"{folder.absolute()} cannot be used: {error}\n{advice}") from error

    def _loader(self, dataset: Dataset[Any], sampler: ShuffledOrder | None = None) -> DataLoader[Any]:
        # With a generator of its own, no loop over the data moves the random numbers of training.
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            generator=torch.Generator().manual_seed(0),
        )


def _subset(folder: ImageFolder, indices: Sequence[int] | np.ndarray) -> Subset[Any]:
    """The images in the order of their files, which is what a disk reads fastest."""
    return Subset(folder, sorted(int(i) for i in indices))


def prescribed_transform(weights: str) -> Callable[[Any], torch.Tensor]:
    """Give the transform that published weights were trained for: size, crop and normalisation.

    Args:
        weights: Name of torchvision weights, such as `ResNet50_Weights.IMAGENET1K_V2`; nothing is downloaded.

    Returns:
        Maps a PIL image to the network's input.

    Raises:
        ValueError: If there are no such weights.
    """
    try:
        return get_weight(weights).transforms()
    except (AttributeError, KeyError, ValueError) as error:
        raise ValueError(
            f"torchvision has no weights {weights!r} ({error}). Give a name such as ResNet50_Weights.IMAGENET1K_V2 "
            "(data.transform.weights)."
        ) from error
