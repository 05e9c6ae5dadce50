"""MNIST, in the layout in which torchvision keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.datasets import MNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from layerprobe.data.errors import CorruptDataError, DataNotFoundError
from layerprobe.data.in_memory import AbstractInMemoryDataModule, InMemoryDataset
from layerprobe.data.samplers import ShuffledOrder
from layerprobe.quoting import command, override
from layerprobe.types import Split

_PARTS = ("train", "t10k")


class MnistDataModule(AbstractInMemoryDataModule):
    """MNIST, 1 x 28 x 28, pixels in [-0.5, 0.5], in torchvision's layout.

    Validation is the last `val_size` images of the training file, whatever the seed: every run is judged on the same
    images, and with 10,000 of them this is the customary 50,000 / 10,000 / 10,000.

    Args:
        root: Folder that holds `MNIST/raw`.
        download: Whether to fetch the files if one is missing.
        train_size: Training samples, the first of the training file; by default all but validation's.
        val_size: Validation samples.
        batch_size: Samples in a batch.
        num_workers: Worker processes of each loader.
        seed: Seed of the training order.
    """

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = False,
        train_size: int | None = None,
        val_size: int = 10_000,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(10, batch_size, num_workers, partial(ShuffledOrder, seed=seed))
        self.seed = seed
        self.root = Path(root).expanduser()
        self.download = download
        self.train_size = train_size
        self.val_size = val_size

    def prepare_data(self) -> None:
        """Fetch the files if that is wanted and needed.

        Raises:
            DataNotFoundError: If they are missing and not to be fetched, or could not be.
        """
        missing = [path.name for path in self._files() if not path.is_file()]
        if not missing:
            return
        if not self.download:
            raise DataNotFoundError(
                f"MNIST is not there: {', '.join(missing)} missing in {self._folder()}.\n{self._how_to_get()}"
            )
        try:
            MNIST(self.root, download=True)
        except (OSError, RuntimeError) as error:
            raise DataNotFoundError(
                f"MNIST could not be downloaded to {self._folder()}: {error}\n"
                "Put the four files there by other means, or give a folder whose MNIST/raw holds them: data.root=DIR"
            ) from error

    def read_splits(self) -> Mapping[Split, InMemoryDataset]:
        """Read the four files and set validation apart.

        Raises:
            DataNotFoundError: If a file is missing.
            CorruptDataError: If a file is not what it should be.
        """
        (images, targets), test = (self._read(part) for part in _PARTS)
        n_train = len(images) - self.val_size
        if self.val_size < 1 or n_train < 1:
            raise ValueError(
                f"val_size={self.val_size:,} leaves a split empty: choose 1 to {len(images) - 1:,} of the "
                f"{len(images):,} training images (data.val_size=10000)"
            )
        size = n_train if self.train_size is None else self.train_size
        if not 1 <= size <= n_train:
            raise ValueError(f"train_size={size:,}: validation leaves 1 to {n_train:,} images (data.train_size=null)")
        return {
            "train": _pixels(images[:size], targets[:size]),
            "val": _pixels(images[n_train:], targets[n_train:]),
            "test": _pixels(*test),
        }

    def _folder(self) -> Path:
        return self.root.absolute() / "MNIST" / "raw"

    def _files(self) -> list[Path]:
        return [self._folder() / name for part in _PARTS for name in _names(part)]

    def _how_to_get(self) -> str:
        return (
            f"To download it: {self._download()}\n"
            "If it lies elsewhere: data.root=DIR, where DIR/MNIST/raw holds the files, or LAYERPROBE_DATA=DIR in the "
            "environment\n"
            f'In Python: MnistDataModule(root="{self.root}", download=True)'
        )

    def _read(self, part: str) -> tuple[UInt8[Tensor, "n 28 28"], UInt8[Tensor, " n"]]:
        images_path, targets_path = (self._folder() / name for name in _names(part))
        images = self._read_file(images_path, read_image_file)
        targets = self._read_file(targets_path, read_label_file).to(torch.uint8)
        if images.shape[1:] != (28, 28) or len(images) != len(targets):
            raise self._corrupt(
                f"{images_path} has shape {tuple(images.shape)} and {targets_path} has {len(targets):,} labels, where "
                "n images of 28 x 28 and n labels are expected",
                images_path,
                targets_path,
            )
        if len(targets) == 0 or targets.max() > 9:
            raise self._corrupt(
                f"{targets_path} has {len(targets):,} labels, not all of them from 0 to 9", images_path, targets_path
            )
        return images, targets

    def _read_file(self, path: Path, read: Callable[[str], Tensor]) -> Tensor:
        try:
            return read(str(path))
        except OSError as error:
            raise DataNotFoundError(f"MNIST is not there: {path}: {error.strerror}.\n{self._how_to_get()}") from error
        except Exception as error:  # torchvision parses whatever the file holds: any kind of error may come of it
            content, reason = path.read_bytes(), f" ({error})" if str(error) else ""
            raise self._corrupt(
                f"{path} is not an IDX file of its kind, or it is cut short: it has {len(content):,} bytes and begins "
                f"with {content[:4].hex(' ') or 'nothing'}{reason}",
                path,
            ) from error

    def _corrupt(self, found: str, *paths: Path) -> CorruptDataError:
        return CorruptDataError(
            f"MNIST cannot be used: {found}.\nTo replace it: rm {' '.join(map(str, paths))} && {self._download()}"
        )

    def _download(self) -> str:
        return command("train", "experiment=mnist", override("data.root", self.root), "data.download=true")


def _names(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def _pixels(images: UInt8[Tensor, "n 28 28"], targets: UInt8[Tensor, " n"]) -> InMemoryDataset:
    return InMemoryDataset(images.unsqueeze(1), targets, scale=1 / 255, shift=-0.5)
