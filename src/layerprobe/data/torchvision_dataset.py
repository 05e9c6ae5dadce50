"""Data sets of images that torchvision knows: CIFAR, SVHN, Fashion-MNIST, STL-10, Oxford flowers and others."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from layerprobe.data.divided_images import AbstractImageDataModule, Images
from layerprobe.data.errors import CorruptDataError, DataError, DataNotFoundError
from layerprobe.data.prescribed_transform import Transform, prescribed_transform
from layerprobe.formatting import one_line
from layerprobe.types import SPLITS, Split

_SHARED = 0.5
"""Share of a split's images beyond which another one is no other split: some published data hold a few images twice."""


class TorchvisionDataModule(AbstractImageDataModule):
    """A data set of `torchvision.datasets`, in the layout in which torchvision keeps it.

    Validation is the data set's own where it has one, else held out of its training split, with the classes in their
    shares and the same for every run seed. Of a data set that torchvision does not divide, such as EuroSAT, test is
    held out likewise.

    Args:
        name: Name of a class of `torchvision.datasets`, such as `CIFAR10`.
        root: The folder that this class takes.
        download: Whether to fetch the files if one is missing.
        splits: By the name that a split has here, the data set's own; `train` and `test` by default. Without `val`,
            validation is held out of `train`; without `test`, so is the test split. Of a data set without splits,
            both are.
        options: Further arguments of the class, such as EMNIST's {split: letters}, which is which of its data sets.
        transform: Makes the network's input of a PIL image; by default images are left as they are, with pixels
            in [-0.5, 0.5].
        train_size: Training images, as a number or a share; by default all that are left.
        val_size: Validation images, likewise; by default all of a split of its own, else a fifth, 10,000 at most.
        test_size: Test images, likewise; by default all.
        batch_size: Images in a batch.
        num_workers: Worker processes of each loader.
        split_seed: Seed of which images are chosen and held out.
        seed: Seed of the training order.

    Raises:
        ValueError: If torchvision has no such data set, or `splits` names another split than these, one that the
            data set cannot have, or one of its splits twice.
    """

    def __init__(
        self,
        name: str,
        root: str | Path = "data",
        download: bool = False,
        splits: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        transform: Transform | None = None,
        train_size: int | float | None = None,
        val_size: int | float | None = None,
        test_size: int | float | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        split_seed: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(train_size, val_size, test_size, batch_size, num_workers, split_seed, seed)
        kind = getattr(datasets, name, None)
        parameters = _parameters(kind) if isinstance(kind, type) else set()
        self.options = {} if options is None else dict(options)
        divided = "split" in parameters and "transforms" not in parameters  # which are of images and masks together
        if "root" not in parameters or not ("download" in parameters or divided):
            raise ValueError(
                f"torchvision has no data set {name!r} that is read from `root`. Give the name of a class of "
                "torchvision.datasets, such as CIFAR10 or Flowers102: data.name=NAME"
            )
        if unknown := sorted(set(self.options) - parameters | set(self.options) & {"root", "train", "download"}):
            raise ValueError(f"data.options has {unknown[0]!r}, which is none of what {name} takes besides the splits.")
        if {"train", "split"} <= parameters and "split" not in self.options:
            kinds = ", ".join(getattr(kind, "splits", ())) or "KIND"
            raise ValueError(f"{name} is several data sets. Say which: data.options={{split: …}}, one of {kinds}.")
        parameters -= set(self.options)
        self.name = name
        self.root = Path(root).expanduser()
        self.download = download
        self.splits = {"train": "train", "test": "test"} if splits is None else dict(splits)
        if "train" not in self.splits or not set(self.splits) <= set(SPLITS):
            raise ValueError(
                f"data.splits has {', '.join(self.splits) or 'nothing'}: expected train and, where the data set has "
                "them, val and test, each with the data set's own name: data.splits={train: train, test: test}"
            )
        if not parameters & {"train", "split"}:  # one set of images: what is not train's is held out of it
            self.splits = {"train": self.splits["train"]}
        own = list(self.splits.values())
        if "split" not in parameters and not set(own) <= {"train", "test"}:
            raise ValueError(
                f"{name} has the splits train and test, and data.splits names {', '.join(map(str, own))}. Leave val "
                "out: it is then held out of train."
            )
        if len(set(own)) < len(own):
            raise ValueError(
                f"data.splits names one split of {name} twice: {', '.join(map(str, own))}. Give each once; where val "
                "or test is left out, it is held out of train."
            )
        self._transform = transform or prescribed_transform(default_size=None)
        self._kind: Any = kind
        self._parameters = parameters

    def prepare_data(self) -> None:
        """Fetch the files if that is wanted and needed.

        Raises:
            DataNotFoundError: If they are missing and not to be fetched, or could not be.
            CorruptDataError: If a file cannot be read.
        """
        for own in self.splits.values():
            self._open(own, download=self.download)

    def read(self) -> tuple[Sequence[Images], int]:
        """Open each split.

        Raises:
            DataNotFoundError: If files are missing.
            CorruptDataError: If a file cannot be read.
        """
        absent: list[Split] = [split for split in SPLITS if split not in self.splits]
        parts = []
        for split in SPLITS:
            if split in self.splits:
                own = self.splits[split]
                dataset = self._open(own, download=False)
                held_out = ["train", *absent] if split == "train" else [split]
                parts.append(Images(f"{self.name}, {own}", dataset, _targets(dataset), held_out))
        self._check_apart(parts)
        found = np.unique(np.concatenate([part.targets for part in parts]))
        return parts, max(len(found), len(getattr(parts[0].dataset, "classes", ())))

    def _check_apart(self, parts: Sequence[Images]) -> None:
        """Refuse splits of which one holds most of another, such as `trainval` and `val`.

        Raises:
            ValueError: Naming both.
        """
        if len(parts) < 2:
            return
        names = [_names(part.dataset) for part in parts]
        for (a, first), (b, second) in combinations(zip(parts, names, strict=True), 2):
            shared = len(first & second)
            if shared > _SHARED * min(len(first), len(second)):
                raise ValueError(
                    f"{a.name} and {b.name} share {shared:,} images. Choose splits that are apart with data.splits; "
                    "where val or test is left out, it is held out of train."
                )

    def _open(self, own: str, download: bool) -> Any:
        options: dict[str, Any] = {"train": own == "train"} if "train" in self._parameters else {}
        if "split" in self._parameters:
            options = {"split": own}
        given = options | self.options | ({"download": download} if "download" in self._parameters else {})
        try:
            return self._kind(str(self.root), transform=self._transform, **given)
        except Exception as error:  # torchvision parses whatever the files hold: any kind of error may come of it
            reason = one_line(error) or type(error).__name__
            folder = self.root.absolute()
            if download:
                raise DataNotFoundError(
                    f"{self.name} could not be downloaded to {folder}: {reason}\nPut the files there by other means, "
                    "in torchvision's layout, or give a folder that holds them: data.root=DIR"
                ) from error
            if isinstance(error, ValueError) and "split" in options and "split" in reason:
                raise DataError(f"{self.name} has no split {own!r}: {reason} Choose with data.splits.") from error
            if isinstance(error, ImportError):
                raise
            if "not found" in reason:
                raise DataNotFoundError(
                    f"{self.name} is not in {folder}, or a file of it is not the published one ({reason}).\n"
                    "To download it: data.download=true. If it lies elsewhere: data.root=DIR, or LAYERPROBE_DATA=DIR "
                    "in the environment"
                ) from error
            raise CorruptDataError(
                f"{self.name} in {folder} cannot be read: {type(error).__name__}: {reason}\n"
                "Remove its files and download it again: data.download=true"
            ) from error


def _parameters(kind: type) -> set[str]:
    """List the arguments of a class, those that it hands on to the classes above it included."""
    found: set[str] = set()
    for one in kind.__mro__[:-1]:
        if "__init__" in vars(one):
            parameters = inspect.signature(one).parameters.values()
            found |= {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}
            if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters):
                break
    return found


def _names(dataset: Any) -> set[Any]:
    """Return what tells the images of a data set apart: their files, or the hashes of those that are in memory."""
    for attribute, value in vars(dataset).items():
        if attribute != "classes" and isinstance(value, list) and len(value) == len(dataset):
            names = [one[0] if isinstance(one, tuple) and one else one for one in value]
            if all(isinstance(name, str | Path) for name in names) and len(set(names)) == len(names):
                return set(map(str, names))
    pixels = getattr(dataset, "data", ())
    return {hash(np.asarray(image).tobytes()) for image in pixels} if len(pixels) == len(dataset) else set()


def _targets(dataset: Any) -> np.ndarray:
    """Read the class indices; torchvision's classes keep them under several names, or with the images only."""
    for name in ("targets", "labels", "_labels"):
        if (found := getattr(dataset, name, None)) is not None:
            return np.asarray(found)
    return np.array([target for _, target in dataset])
