from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layerprobe.data.errors import DataNotFoundError
from layerprobe.data.image_folder import ImageFolderDataModule, prescribed_transform
from made_images import make_image_folder

RESNET = "ResNet50_Weights.IMAGENET1K_V1"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image_folder(tmp_path_factory.mktemp("images"), train=8, val=4, size=40)


def module(root: Path, **others) -> ImageFolderDataModule:
    found = ImageFolderDataModule(root, prescribed_transform(RESNET), **{"val_size": 6, "batch_size": 4} | others)
    found.setup()
    return found


def files(loader) -> list[str]:
    subset = loader.dataset
    return [subset.dataset.samples[i][0] for i in subset.indices]


def test_images_come_as_the_weights_prescribe_with_the_index_of_their_folder(root):
    images, targets = next(iter(module(root).test_dataloader()))
    assert images.shape == (4, 3, 224, 224)
    assert targets.tolist() == [0, 0, 0, 0]
    # By hand: the shorter side to 256, the middle 224 x 224, to [0, 1], then ImageNet's mean and deviation.
    image = Image.open(files(module(root).test_dataloader())[0]).resize((256, 256), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(image.crop((16, 16, 240, 240)), dtype=np.float32) / 255)
    expected = (pixels - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(images[0], expected.permute(2, 0, 1), atol=0.02, rtol=0)


def test_validation_is_held_out_of_train_and_test_is_the_other_folder(root):
    data = module(root)
    train, val, test = (files(getattr(data, f"{split}_dataloader")()) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (18, 6, 12)
    assert not set(train) & set(val)
    assert all("/train/" in name for name in train + val)
    assert all("/val/" in name for name in test)


def test_the_split_follows_its_own_seed_and_the_order_the_runs(root):
    one, same, other = module(root), module(root, seed=5), module(root, split_seed=1)
    assert files(one.val_dataloader()) == files(same.val_dataloader())
    assert files(one.val_dataloader()) != files(other.val_dataloader())
    assert list(one.train_dataloader().sampler) != list(same.train_dataloader().sampler)


def test_sizes_by_option(root):
    data = module(root, train_size=5, test_size=3)
    assert len(files(data.train_dataloader())) == 5
    assert len(files(data.test_dataloader())) == 3


@pytest.mark.parametrize("sizes", [{"val_size": 24}, {"train_size": 19}, {"val_size": 0}, {"test_size": 13}])
def test_sizes_that_do_not_fit_are_refused(root, sizes):
    with pytest.raises(ValueError, match=r"has .* images"):
        module(root, **sizes)


def test_a_missing_folder_and_other_classes_say_what_to_do(root, tmp_path):
    with pytest.raises(DataNotFoundError, match=r"data\.root=DIR"):
        module(tmp_path)
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "copy" / "val" / "n03_brown").rename(tmp_path / "copy" / "val" / "n04_black")
    with pytest.raises(ValueError, match="n03_brown, n04_black"):
        module(tmp_path / "copy")
    (tmp_path / "empty" / "train" / "n01_white").mkdir(parents=True)
    with pytest.raises(DataNotFoundError, match="cannot be used"):
        module(tmp_path / "empty")


def test_unknown_weights_are_named():
    with pytest.raises(ValueError, match=r"data\.transform\.weights"):
        prescribed_transform("ResNet49_Weights.DEFAULT")
