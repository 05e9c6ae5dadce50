import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from layerprobe.data.errors import CorruptDataError, DataNotFoundError
from layerprobe.data.mnist import MnistDataModule

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def _write(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a made MNIST of 30 + 10 images."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for images, labels, n in ((TRAIN_IMAGES, TRAIN_LABELS, 30), (TEST_IMAGES, TEST_LABELS, 10)):
        _write(raw / images, rng.integers(0, 256, size=(n, 28, 28)))
        _write(raw / labels, rng.integers(0, 10, size=n))
    return tmp_path


def _ready(root: Path, **arguments) -> MnistDataModule:
    data = MnistDataModule(root, val_size=arguments.pop("val_size", 10), **arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def test_it_reads_what_was_written(root):
    data = _ready(root, batch_size=8)
    pixels = np.frombuffer((root / "MNIST" / "raw" / TRAIN_IMAGES).read_bytes()[16:], dtype=np.uint8)
    wanted = torch.from_numpy(pixels.reshape(30, 1, 28, 28) / 255 - 0.5).float()
    labels = list((root / "MNIST" / "raw" / TRAIN_LABELS).read_bytes()[8:])
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [20, 10, 10]
    torch.testing.assert_close(torch.stack([x for x, _ in data.dataset("train")]), wanted[:20])
    torch.testing.assert_close(torch.stack([x for x, _ in data.dataset("val")]), wanted[20:])
    assert data.dataset("train").targets.tolist() + data.dataset("val").targets.tolist() == labels
    assert [len(targets) for _, targets in data.train_dataloader()] == [8, 8, 4]


def test_missing_files_say_which_where_and_how_to_get_them(root):
    (root / "MNIST" / "raw" / TEST_LABELS).unlink()
    with pytest.raises(DataNotFoundError) as caught:
        _ready(root)
    message = str(caught.value)
    assert TEST_LABELS in message
    assert TRAIN_IMAGES not in message
    assert str(root / "MNIST" / "raw") in message
    assert f"uv run scripts/train.py experiment=mnist data.root={root} data.download=true" in message


def test_setup_alone_says_the_same(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"train-images-idx3-ubyte(.|\n)*data\.download=true"):
        MnistDataModule(tmp_path).setup("fit")


def test_a_failed_download_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(DataNotFoundError, match=r"could not be downloaded(.|\n)*data\.root=DIR"):
        MnistDataModule(tmp_path, download=True).prepare_data()


def test_a_download_is_not_tried_where_nothing_is_missing(root, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])
    assert len(_ready(root, download=True).dataset("test")) == 10


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (TRAIN_IMAGES, b"", "0 bytes and begins with nothing"),
        (
            TRAIN_IMAGES,
            struct.pack(">BBBB3I", 0, 0, 8, 3, 30, 28, 28) + bytes(100),
            r"cut short: it has 116 bytes (.*)\(shape '\[30, 28, 28\]' is invalid for input of size 100\)",
        ),
        (TRAIN_LABELS, b"<html>not found</html>", "is not an IDX file"),
        (TRAIN_LABELS, struct.pack(">BBBBI", 0, 0, 8, 1, 29) + bytes(29), "29 labels"),
        (TRAIN_LABELS, struct.pack(">BBBBI", 0, 0, 8, 1, 30) + bytes([10] * 30), "not all of them from 0 to 9"),
        (TEST_IMAGES, struct.pack(">BBBB3I", 0, 0, 8, 3, 10, 2, 2) + bytes(40), r"shape \(10, 2, 2\)"),
    ],
    ids=["empty", "truncated", "another format", "other count", "label out of range", "other size"],
)
def test_a_corrupt_file_is_named_with_the_way_to_replace_it(root, name, content, reason):
    path = root / "MNIST" / "raw" / name
    path.write_bytes(content)
    with pytest.raises(CorruptDataError, match=reason) as caught:
        _ready(root)
    assert str(path) in str(caught.value)
    assert "rm " in str(caught.value)
    assert "data.download=true" in str(caught.value)


@pytest.mark.parametrize("val_size", [0, 30])
def test_an_empty_split_is_refused(root, val_size):
    with pytest.raises(ValueError, match="leaves a split empty"):
        _ready(root, val_size=val_size)


def test_real_mnist(shared):
    data = _ready(shared / "data", val_size=10_000)
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [50_000, 10_000, 10_000]
    inputs, _ = next(iter(data.train_dataloader()))
    assert inputs.shape == (64, 1, 28, 28)
    assert (inputs.min(), inputs.max()) == (-0.5, 0.5)
    test_classes = torch.bincount(data.dataset("test").targets).tolist()
    assert test_classes == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.bincount(data.dataset("val").targets).min() > 900


def test_fewer_training_images_are_the_first_and_leave_validation_as_it_was(root):
    whole, fewer = _ready(root), _ready(root, train_size=7)
    assert torch.equal(fewer.dataset("train").stored, whole.dataset("train").stored[:7])
    assert torch.equal(fewer.dataset("val").stored, whole.dataset("val").stored)
    with pytest.raises(ValueError, match=r"data\.train_size=null"):
        _ready(root, train_size=21)
