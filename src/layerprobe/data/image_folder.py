"""Images in folders, one for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torchvision.datasets import ImageFolder

from layerprobe.data.divided_images import AbstractImageDataModule, Images
from layerprobe.data.errors import DataNotFoundError
from layerprobe.data.prescribed_transform import Transform, prescribed_transform
from layerprobe.formatting import first_line
from layerprobe.types import Split

_VAL = ("val", "valid", "validation")
_LAYOUTS = (
    "Expected DIR/CLASS/IMAGE, which is divided into the splits; or DIR/train/CLASS/IMAGE with the same classes in "
    "DIR/val, DIR/test or both. Give the folder: data.root=DIR"
)


class ImageFolderDataModule(AbstractImageDataModule):
    """Images in a folder for each class, read and transformed one by one.

    What is in `root` says which split is which, and the log repeats it:

    - `train`, `val` and `test`: as they are called;
    - `train` and `test`: validation is held out of `train`;
    - `train` and `val`, as ImageNet lies on disk: its labelled `val` is the test split, as in all that is published
      about it, and validation is held out of `train`;
    - `train` alone, or the class folders themselves: divided into all three.

    What is held out or chosen has the classes in their shares, and is the same for every run seed.

    Args:
        root: The folder.
        transform: Makes the network's input of a PIL image; by default `prescribed_transform()`.
        train_size: Training images, as a number or a share of the folder that they are chosen from; by default all
            that are left.
        val_size: Validation images, likewise; by default all of a folder of their own, else a fifth of the images,
            10,000 at most.
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
        root: str | Path,
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
        self.root = Path(root).expanduser()
        self._transform = transform or prescribed_transform()

    def read(self) -> tuple[Sequence[Images], int]:
        """List the files.

        Raises:
            DataNotFoundError: If a folder is missing or has no class with an image.
            ValueError: If the folders have different classes, or one only.
        """
        found = {path: (self._folder(path), splits) for path, splits in self._layout().items()}
        (first, (own, _)), *others = found.items()
        for path, (folder, _) in others:
            if folder.classes != own.classes:
                differing = sorted(set(folder.classes) ^ set(own.classes))
                raise ValueError(
                    f"{first} and {path} have different classes: {', '.join(differing[:5])} in one only. Give both "
                    "the same folders."
                )
        if len(own.classes) < 2:
            raise ValueError(f"{first} has one class only, {own.classes[0]}; a probe tells classes apart. {_LAYOUTS}")
        parts = [
            Images(str(path), folder, np.array(folder.targets), splits) for path, (folder, splits) in found.items()
        ]
        return parts, len(own.classes)

    def _layout(self) -> dict[Path, list[Split]]:
        """Say which splits each folder is for."""
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

    def _folder(self, path: Path) -> ImageFolder:
        try:
            return ImageFolder(str(path), self._transform)
        except FileNotFoundError as error:
            reason = first_line(error)
            raise DataNotFoundError(f"{path.absolute()} cannot be used: {reason}\n{_LAYOUTS}") from error
