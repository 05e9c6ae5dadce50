"""Small files in the layout that is published, read through torchvision's own classes."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from PIL import Image
from scipy.io import savemat

from helpers.command import ROOT
from layerprobe.config import register
from layerprobe.data import torchvision_dataset
from layerprobe.data.errors import CorruptDataError, DataError, DataNotFoundError
from layerprobe.data.torchvision_dataset import TorchvisionDataModule

RNG = np.random.default_rng(0)
Written = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Images (n channels height width) and class indices of the training and of the test split."""


def _made(n_train: int, n_test: int, shape: tuple[int, ...], classes: int) -> Written:
    images = RNG.integers(0, 256, size=(n_train + n_test, *shape), dtype=np.uint8)
    targets = np.arange(n_train + n_test) % classes
    return images[:n_train], targets[:n_train], images[n_train:], targets[n_train:]


def _pickle(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def cifar10(root: Path) -> Written:
    made = _made(50, 20, (3, 32, 32), 10)
    folder = root / "cifar-10-batches-py"
    for i in range(5):
        rows = slice(10 * i, 10 * i + 10)
        batch = {"data": made[0][rows].reshape(10, -1), "labels": made[1][rows].tolist()}
        _pickle(folder / f"data_batch_{i + 1}", batch)
    _pickle(folder / "test_batch", {"data": made[2].reshape(20, -1), "labels": made[3].tolist()})
    _pickle(folder / "batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    return made


def cifar100(root: Path) -> Written:
    made = _made(200, 100, (3, 32, 32), 100)
    folder = root / "cifar-100-python"
    for name, images, targets in (("train", *made[:2]), ("test", *made[2:])):
        fine = {"data": images.reshape(len(images), -1), "fine_labels": targets.tolist()}
        _pickle(folder / name, fine | {"coarse_labels": [0] * len(images)})
    _pickle(folder / "meta", {"fine_label_names": [f"class {i}" for i in range(100)]})
    return made


def svhn(root: Path) -> Written:
    made = _made(50, 20, (3, 32, 32), 10)
    for name, images, targets in (("train", *made[:2]), ("test", *made[2:])):
        published = np.where(targets == 0, 10, targets)[:, None]  # the digit 0 is the class 10 in the files
        savemat(root / f"{name}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": published})
    return made


def fashion_mnist(root: Path, name: str = "FashionMNIST", parts: tuple[str, str] = ("train", "t10k")) -> Written:
    made = _made(50, 20, (1, 28, 28), 10)
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for part, images, targets in ((parts[0], *made[:2]), (parts[1], *made[2:])):
        header = struct.pack(">BBBB3I", 0, 0, 8, 3, len(images), 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">BBBBI", 0, 0, 8, 1, len(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + targets.astype(np.uint8).tobytes())
    return made


def stl10(root: Path, n_train: int = 20) -> Written:
    made = _made(n_train, 10, (3, 96, 96), 10)
    folder = root / "stl10_binary"
    folder.mkdir()
    for name, images, targets in (("train", *made[:2]), ("test", *made[2:])):
        (folder / f"{name}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())  # column by column
        (folder / f"{name}_y.bin").write_bytes((targets + 1).astype(np.uint8).tobytes())
    (folder / "unlabeled_X.bin").touch()
    (folder / "class_names.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    return made


def flowers102(root: Path) -> Written:
    """Pictures of one grey each, since JPEG keeps no more; ids count from 1, as in the files."""
    n = {"trnid": 102, "valid": 102, "tstid": 204}
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    order = RNG.permutation(sum(n.values())) + 1
    ids = dict(zip(n, np.split(order, np.cumsum([*n.values()])[:-1]), strict=True))
    labels = np.zeros(len(order), dtype=int)
    for part in ids.values():
        labels[part - 1] = np.arange(len(part)) % 102
    greys = RNG.integers(0, 256, size=len(order) + 1)
    for i in order:
        Image.new("RGB", (40, 30), (int(greys[i]),) * 3).save(folder / "jpg" / f"image_{i:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": labels[None] + 1})
    savemat(folder / "setid.mat", {name: part[None] for name, part in ids.items()})

    def images(part: np.ndarray) -> np.ndarray:
        return np.broadcast_to(greys[part][:, None, None, None], (len(part), 3, 30, 40)).astype(np.uint8)

    train, test = ids["trnid"], ids["tstid"]
    return images(train), labels[train - 1], images(test), labels[test - 1]


SETS: dict[str, Callable[[Path], Written]] = {
    "cifar10": cifar10, "cifar100": cifar100, "svhn": svhn, "fashion_mnist": fashion_mnist, "stl10": stl10,
    "flowers102": flowers102,
}  # fmt: skip


def composed(name: str, root: Path, *words: str) -> TorchvisionDataModule:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [f"data={name}", f"data.root={root}", "data.batch_size=512", "logger=none", *words])
    return instantiate(cfg.data)


@pytest.fixture
def _any_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchvision compares are the checksums of the files that are published, which these are not."""
    for module in ("cifar", "svhn", "stl10", "flowers102", "mnist"):
        exists = lambda path, md5=None: Path(path).is_file()  # noqa: E731
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", exists)


@pytest.mark.usefixtures("_any_content")
@pytest.mark.parametrize("name", SETS)
def test_what_is_published_is_what_is_read(name: str, tmp_path: Path) -> None:
    train, train_targets, test, test_targets = SETS[name](tmp_path)
    data = composed(name, tmp_path, *(["data.transform.default_size=null"] if name == "flowers102" else []))
    data.prepare_data()
    data.setup()
    assert data.n_classes == len(set(train_targets))
    images, targets = next(iter(data.test_dataloader()))
    assert targets.tolist() == test_targets.tolist()
    tolerance = 0.01 if name == "flowers102" else 1e-6
    torch.testing.assert_close(images, torch.from_numpy(test / 255 - 0.5).float(), atol=tolerance, rtol=0)
    (kept, kept_targets), (held_out, held_out_targets) = (
        next(iter(loader)) for loader in (data.train_dataloader(), data.val_dataloader())
    )
    if name == "flowers102":  # it has a validation split of its own
        assert len(kept) == len(held_out) == len(train) == 102
        return
    assert len(held_out) == len(train) // 5
    assert len(set(held_out_targets.tolist())) == min(len(held_out), data.n_classes), "the classes in their shares"
    both = torch.cat([kept, held_out]).flatten(1).sum(1)
    np.testing.assert_allclose(np.sort(both), np.sort((train / 255 - 0.5).reshape(len(train), -1).sum(1)), atol=0.01)
    assert sorted(torch.cat([kept_targets, held_out_targets]).tolist()) == sorted(train_targets)


@pytest.mark.usefixtures("_any_content")
def test_validation_follows_the_split_seed_and_no_run_seed(tmp_path: Path) -> None:
    cifar10(tmp_path)

    def held_out(**options: Any) -> torch.Tensor:
        data = TorchvisionDataModule("CIFAR10", tmp_path, **options)
        data.setup()
        return next(iter(data.val_dataloader()))[0]

    assert torch.equal(held_out(), held_out(seed=5))
    assert not torch.equal(held_out(), held_out(split_seed=1))
    assert len(held_out(val_size=0.5, train_size=20, test_size=5)) == 25


def test_no_image_of_a_data_set_without_splits_is_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_dataset, "_names", pytest.fail)  # there is nothing to tell apart
    for i in range(50):
        folder = tmp_path / "eurosat" / "2750" / f"class {i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (5 * i,) * 3).save(folder / f"{i}.png")
    data = composed("torchvision", tmp_path, "data.name=EuroSAT")
    data.prepare_data()
    data.setup()
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    parts = [next(iter(loader)) for loader in loaders]
    assert [len(targets) for _, targets in parts] == [30, 10, 10]
    greys = torch.cat([images[:, 0, 0, 0] for images, _ in parts])
    assert len(greys.unique()) == 50, "every image is in one split"
    assert [targets.sum().item() for _, targets in parts] == [15, 5, 5], "the classes in their shares"


@pytest.mark.parametrize(
    ("name", "splits", "message"),
    [
        ("FashionMNIST", {"train": "train", "val": "val", "test": "test"}, "has the splits train and test, and .* val"),
        ("FashionMNIST", {"train": "train", "test": "train"}, "names one split of FashionMNIST twice"),
        ("SVHN", {"train": "train", "val": "test", "test": "test"}, "names one split of SVHN twice"),
    ],
)
def test_splits_that_would_share_images_are_refused(name: str, splits: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchvisionDataModule(name, splits=splits)


@pytest.mark.usefixtures("_any_content")
def test_as_many_images_as_classes_are_not_taken_for_the_classes(tmp_path: Path) -> None:
    stl10(tmp_path, 10)
    data = TorchvisionDataModule("STL10", tmp_path, val_size=2)
    data.setup()
    assert len(data.test_dataloader().dataset) == 10


@pytest.mark.usefixtures("_any_content")
def test_the_network_says_the_size_and_the_channels(tmp_path: Path) -> None:
    fashion_mnist(tmp_path)
    for words, shape in (
        ("model=torchvision model.name=resnet18", (3, 224, 224)),
        ("model=timm model.name=convnext_atto data.transform.size=48", (3, 48, 48)),
        ("model=mnist_convnet data.transform.size=32", (3, 32, 32)),
    ):
        data = composed("fashion_mnist", tmp_path, *words.split())
        data.setup()
        assert data.test_dataloader().dataset[0][0].shape == shape, words


@pytest.mark.usefixtures("_any_content")
def test_relatives_of_mnist_whose_splits_go_by_other_words(tmp_path: Path) -> None:
    written = fashion_mnist(tmp_path, "EMNIST", ("emnist-digits-train", "emnist-digits-test"))
    _, _, _, kmnist_targets = fashion_mnist(tmp_path, "KMNIST")
    emnist = composed("torchvision", tmp_path, "data.name=EMNIST", "data.options={split: digits}")
    kmnist = composed("torchvision", tmp_path, "data.name=KMNIST")
    for data, targets in ((emnist, written[3]), (kmnist, kmnist_targets)):
        data.prepare_data()
        data.setup()
        assert next(iter(data.test_dataloader()))[1].tolist() == targets.tolist()
    with pytest.raises(ValueError, match=r"EMNIST is several data sets.*data\.options=\{split: …\}, one of .*letters"):
        TorchvisionDataModule("EMNIST")
    with pytest.raises(ValueError, match=r"data\.options has 'kind', which is none of what EMNIST takes"):
        TorchvisionDataModule("EMNIST", options={"kind": "letters"})
    for name in ("QMNIST", "FER2013", "ImageNet"):
        TorchvisionDataModule(name, splits={"train": "train", "test": "val"} if name == "ImageNet" else None)
    with pytest.raises(ValueError, match="no data set 'Cityscapes'"):
        TorchvisionDataModule("Cityscapes")


@pytest.mark.usefixtures("_any_content")
def test_splits_of_other_names_that_share_images_are_refused(tmp_path: Path) -> None:
    """By the names of files, and by pixels where they are in memory."""
    pets = tmp_path / "oxford-iiit-pet"
    for folder in ("images", "annotations"):
        (pets / folder).mkdir(parents=True)
    for split in ("trainval", "test"):  # a copy of the published lists in which each has the other's images
        (pets / "annotations" / f"{split}.txt").write_text("".join(f"cat_{i} {1 + i % 2} 1 1\n" for i in range(20)))
    svhn(tmp_path)
    for part in ("extra", "test"):
        (tmp_path / f"{part}_32x32.mat").write_bytes((tmp_path / "train_32x32.mat").read_bytes())
    for name, splits in (
        ("OxfordIIITPet", {"train": "trainval", "test": "test"}),
        ("SVHN", {"train": "train", "val": "extra", "test": "test"}),
    ):
        with pytest.raises(ValueError, match=rf"{name}, train.* share \d+ images.*data\.splits"):
            TorchvisionDataModule(name, tmp_path, splits=splits).setup()


def test_what_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    for name in ("CIFAR10", "CIFAR100", "SVHN", "FashionMNIST", "STL10", "Flowers102"):
        data = TorchvisionDataModule(name, tmp_path)
        for ready in (data.prepare_data, data.setup):
            with pytest.raises(DataNotFoundError, match=rf"{data.name} is not in(.|\n)*download=true(.|\n)*data\.root"):
                ready()
    cifar10(tmp_path)  # whose checksums are not those of the published files
    with pytest.raises(DataNotFoundError, match="a file of it is not the published one"):
        TorchvisionDataModule("CIFAR10", tmp_path).prepare_data()


@pytest.mark.parametrize(("name", "place"), [("CIFAR10", "cifar.CIFAR10.url"), ("SVHN", "svhn.SVHN.split_list")])
def test_a_download_that_fails_is_one_clear_error(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "http://127.0.0.1:9/file"
    split = {part: [nowhere, f"{part}_32x32.mat", ""] for part in ("train", "test")}
    monkeypatch.setattr(f"torchvision.datasets.{place}", nowhere if name == "CIFAR10" else split)
    with pytest.raises(DataNotFoundError, match=r"could not be downloaded to(.|\n)*data\.root=DIR"):
        TorchvisionDataModule(name, tmp_path, download=True).prepare_data()


@pytest.mark.usefixtures("_any_content")
def test_files_that_cannot_be_read_and_wrong_words(tmp_path: Path) -> None:
    cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"<html>not found</html>")
    with pytest.raises(CorruptDataError, match=r"CIFAR10 in .* cannot be read: UnpicklingError(.|\n)*download=true"):
        TorchvisionDataModule("CIFAR10", tmp_path).prepare_data()
    with pytest.raises(InstantiationException, match="no data set 'CIFAR11'"):
        composed("cifar10", tmp_path, "data.name=CIFAR11")
    with pytest.raises(ValueError, match="has test: expected train"):
        TorchvisionDataModule("CIFAR10", splits={"test": "test"})
    svhn(tmp_path)
    with pytest.raises(DataError, match="SVHN has no split 'valid'"):
        TorchvisionDataModule("SVHN", tmp_path, splits={"train": "train", "val": "valid", "test": "test"}).setup()
