"""Images in folders, one for each class."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.models import ResNet50_Weights, get_model_weights, get_weight, list_models

from layerprobe.data.errors import DataNotFoundError
from layerprobe.data.samplers import ShuffledOrder
from layerprobe.types import SPLITS, Split

log = logging.getLogger("layerprobe")


_IMAGENET = ResNet50_Weights.IMAGENET1K_V1.transforms
"""Builds torchvision's transform for networks of ImageNet's classes; nothing is downloaded."""

_VAL = ("val", "valid", "validation")
_DEFAULT_SHARE, _DEFAULT_MOST = 0.2, 10_000
_LAYOUTS = (
    "Expected DIR/CLASS/IMAGE, which is divided into the splits; or DIR/train/CLASS/IMAGE with the same classes in "
    "DIR/val, DIR/test or both. Give the folder: data.root=DIR"
)


class ImageFolderDataModule(pl.LightningDataModule):
    """Images in a folder for each class, read and transformed one by one.

    What is in `root` says which split is which, and the log repeats it:

    - `train`, `val` and `test`: as they are called;
    - `train` and `test`: validation is held out of `train`;
    - `train` and `val`, as ImageNet lies on disk: its labelled `val` is the test split, as in all that is published
      about it, and validation is held out of `train`;
    - `train` alone, or the class folders themselves: divided into all three.

    What is held out or chosen has the classes in their shares, and is the same for every run seed.

    Attributes:
        n_classes: Number of classes, known after `setup`.
        batch_size: Images in a batch; the last one of an epoch may be smaller.
    """

    def __init__(
        self,
        root: str | Path,
        transform: Callable[[Any], torch.Tensor] | None = None,
        train_size: int | float | None = None,
        val_size: int | float | None = None,
        test_size: int | float | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        split_seed: int = 0,
        seed: int = 0,
    ) -> None:
        """Read nothing yet.

        Args:
            root: The folder.
            transform: Makes the network's input of a PIL image; by default `prescribed_transform()`.
            train_size: Training images, as a number or a share of the folder that they are chosen from; by default all
                that are left.
            val_size: Validation images, likewise; by default all of a folder of their own, else a fifth of the images,
                10,000 at most.
            test_size: Test images, likewise.
            batch_size: Images in a batch.
            num_workers: Worker processes of each loader.
            split_seed: Seed of which images are chosen and held out.
            seed: Seed of the training order.
        """
        super().__init__()
        self.root = Path(root).expanduser()
        self.batch_size = batch_size
        self.n_classes = 0
        self._transform = transform or prescribed_transform()
        self._sizes: dict[Split, int | float | None] = {"train": train_size, "val": val_size, "test": test_size}
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
            ValueError: If the folders have different classes, or fewer images than asked for.
        """
        if self._splits:
            return
        found = {path: (self._folder(path), splits) for path, splits in self._layout().items()}
        (first, (own, _)), *others = found.items()
        for path, (folder, _) in others:
            if folder.classes != own.classes:
                differing = sorted(set(folder.classes) ^ set(own.classes))
                raise ValueError(
                    f"{first} and {path} have different classes: {', '.join(differing[:5])} in one only. Give both "
                    "the same folders."
                )
        self.n_classes = len(own.classes)
        if self.n_classes < 2:
            raise ValueError(f"{first} has one class only, {own.classes[0]}; a probe tells classes apart. {_LAYOUTS}")
        divided: dict[Split, Dataset[Any]] = {}
        for i, (path, (folder, splits)) in enumerate(found.items()):
            parts = self._divide(path, np.array(folder.targets), splits, i)
            divided |= {split: Subset(folder, sorted(part.tolist())) for split, part in parts.items()}
            log.info("%s: %s", path, ", ".join(f"{len(parts[split]):,} images for {split}" for split in splits))
        self._splits = {split: divided[split] for split in SPLITS}

    def _layout(self) -> dict[Path, list[Split]]:
        """Which splits each folder is for."""
        if not self.root.is_dir():
            raise DataNotFoundError(f"There is no folder {self.root.absolute()}.\n{_LAYOUTS}")
        train, test = self.root / "train", self.root / "test"
        val = next((self.root / name for name in _VAL if (self.root / name).is_dir()), None)
        if not train.is_dir():
            held = [path.name for path in (val, test) if path is not None and path.is_dir()]
            if held:
                raise DataNotFoundError(
                    f"There is no folder {train.absolute()} beside {' and '.join(held)}.\n{_LAYOUTS}"
                )
            return {self.root: ["train", "val", "test"]}
        if test.is_dir():
            return (
                {train: ["train"], val: ["val"], test: ["test"]} if val else {train: ["train", "val"], test: ["test"]}
            )
        return {train: ["train", "val"], val: ["test"]} if val else {train: ["train", "val", "test"]}

    def _divide(self, path: Path, targets: np.ndarray, splits: list[Split], part: int) -> dict[Split, np.ndarray]:
        """Choose so many images for each split of a folder, held-out ones first."""
        n = len(targets)
        alone, fifth = len(splits) == 1, min(round(_DEFAULT_SHARE * n), _DEFAULT_MOST)
        sizes: dict[Split, int] = {
            split: _count(self._sizes[split], n, n if alone else fifth) for split in splits if split != "train"
        }
        if "train" in splits:
            sizes["train"] = _count(self._sizes["train"], n, n - sum(sizes.values()))
        if min(sizes.values()) < 1 or sum(sizes.values()) > n:
            wanted = ", ".join(f"{max(size, 0):,} for {split} (data.{split}_size)" for split, size in sizes.items())
            raise ValueError(
                f"{path} has {n:,} images; it cannot give {wanted}. Choose numbers of at least 1 that fit into them, "
                "or shares such as 0.2."
            )
        order, start = _stratified(targets, np.random.default_rng((self._split_seed, part))), 0
        chosen: dict[Split, np.ndarray] = {}
        for split, size in sizes.items():
            chosen[split], start = order[start : start + size], start + size
        return chosen

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

    def _folder(self, path: Path) -> ImageFolder:
        try:
            return ImageFolder(str(path), self._transform)
        except FileNotFoundError as error:
            reason = str(error).splitlines()[0]
            raise DataNotFoundError(f"{path.absolute()} cannot be used: {reason}\n{_LAYOUTS}") from error

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


def _count(size: int | float | None, n: int, default: int) -> int:
    """A share of at most 1.0, or a whole number."""
    if size is None:
        return default
    return round(size * n) if isinstance(size, float) and 0 < size <= 1 else int(size)


def _stratified(targets: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """An order of which every part has the classes in their shares, to within an image or two.

    The i-th of the n images of a class stands at (i + u)/n of the way, with u in [0, 1) drawn for each class.
    """
    place = np.empty(len(targets))
    for target in np.unique(targets):
        rows = random.permutation(np.flatnonzero(targets == target))
        place[rows] = (np.arange(len(rows)) + random.random()) / len(rows)
    return np.argsort(place, kind="stable")


def prescribed_transform(
    weights: str | None = None, network: str | None = None, size: int | None = None
) -> Callable[[Any], torch.Tensor]:
    """Give the transform that fits a network: size, crop and normalisation.

    Args:
        weights: Name of torchvision weights, such as `ResNet50_Weights.IMAGENET1K_V2`, or `IMAGENET1K_V2` where
            `network` says whose; nothing is downloaded.
        network: Name of one of torchvision's networks, such as `resnet50`, or the dotted name of the function that
            builds it: without `weights`, the transform is that of its first published weights. Other names are of no
            effect.
        size: Height and width of the network's input; by default what the weights prescribe, or else 224.

    Returns:
        Maps a PIL image to the network's input. Without weights or a network of torchvision's: the shorter side to
        8/7 of `size`, the middle, to [0, 1], ImageNet's mean and deviation.

    Raises:
        ValueError: If there are no such weights, or their transform takes no size.
    """
    name = (network or "").rpartition(".")[2].lower()
    prescribed: Any = None
    try:
        if weights and "." in weights:
            prescribed = get_weight(weights).transforms
        elif name in list_models():
            of_network = get_model_weights(name)
            prescribed = (of_network[weights] if weights else next(iter(of_network))).transforms
    except (AttributeError, KeyError, ValueError) as error:
        known = f" {name} has {', '.join(get_model_weights(name).__members__)}." if name in list_models() else ""
        raise ValueError(
            f"torchvision has no weights {weights!r}.{known} Give a name such as ResNet50_Weights.IMAGENET1K_V2 "
            "(data.transform.weights)."
        ) from error
    if prescribed is None:
        size = size or 224
        return _IMAGENET(crop_size=size, resize_size=round(size * 8 / 7))
    if size is None:
        return prescribed()
    found = prescribed()
    if not isinstance(found, type(_IMAGENET())):
        raise ValueError(
            f"The transform of {network or weights} is {type(found).__name__}, which takes no size. Leave out "
            "data.transform.size, or give a transform of your own: data.transform._target_=…"
        )
    resize = round(size * found.resize_size[0] / found.crop_size[0])
    return prescribed(crop_size=size, resize_size=resize)
