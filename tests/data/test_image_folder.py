from __future__ import annotations

import logging
import shutil
from collections import Counter
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from helpers.command import ROOT
from helpers.made_images import make_image_folder
from layerprobe.config import register
from layerprobe.data.errors import DataNotFoundError
from layerprobe.data.image_folder import ImageFolderDataModule
from layerprobe.data.prescribed_transform import prescribed_transform

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


@pytest.mark.parametrize("size", [0, -8])
@pytest.mark.parametrize("network", [None, "resnet18"])
def test_images_without_pixels_are_refused(network, size):
    with pytest.raises(ValueError, match=rf"size of images is {size}, expected 1 or more \(data.transform.size\)"):
        prescribed_transform(network=network, size=size)


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


def flat(root: Path, to: Path, numbers: tuple[int, ...] = (20, 20, 20)) -> Path:
    for folder, number in zip(sorted((root / "train").iterdir()), numbers, strict=True):
        (to / folder.name).mkdir(parents=True)
        for i in range(number):
            shutil.copy(folder / "000.png", to / folder.name / f"{i:03d}.png")
    return to


def split_of(data: ImageFolderDataModule) -> dict[str, list[str]]:
    return {split: files(getattr(data, f"{split}_dataloader")()) for split in ("train", "val", "test")}


def classes(names: list[str]) -> Counter[str]:
    return Counter(Path(name).parent.name for name in names)


def test_class_folders_alone_are_divided_with_the_classes_in_their_shares(root, tmp_path, caplog):
    logging.getLogger("layerprobe").propagate = True
    where = flat(root, tmp_path / "flat", (40, 20, 10))
    with caplog.at_level(logging.INFO, "layerprobe"):
        found = split_of(module(where, val_size=None))
    assert {split: len(names) for split, names in found.items()} == {"train": 42, "val": 14, "test": 14}
    assert len(set().union(*map(set, found.values()))) == 70
    assert f"{where}: 42 images for train, 14 images for val, 14 images for test" in caplog.text
    for names in found.values():
        for name, share in (("n01_white", 4 / 7), ("n02_pink", 2 / 7), ("n03_brown", 1 / 7)):
            assert abs(classes(names)[name] - share * len(names)) <= 1.5
    assert split_of(module(where, val_size=None, seed=3)) == found | {"train": found["train"]}
    assert split_of(module(where, val_size=None, split_seed=1))["test"] != found["test"]
    numbers = split_of(module(where, val_size=0.1, test_size=21, train_size=0.5))
    assert [len(numbers[split]) for split in ("train", "val", "test")] == [35, 7, 21]


@pytest.mark.parametrize(
    ("folders", "wanted"),
    [
        (("train", "val", "test"), {"train": "train", "val": "val", "test": "test"}),
        (("train", "valid", "test"), {"train": "train", "val": "valid", "test": "test"}),
        (("train", "val"), {"train": "train", "val": "train", "test": "val"}),
        (("train", "test"), {"train": "train", "val": "train", "test": "test"}),
        (("train",), {"train": "train", "val": "train", "test": "train"}),
    ],
)
def test_what_is_there_says_which_split_is_which(root, tmp_path, caplog, folders, wanted):
    logging.getLogger("layerprobe").propagate = True
    for folder in folders:
        flat(root, tmp_path / folder, (5, 5, 5))
    with caplog.at_level(logging.INFO, "layerprobe"):
        found = split_of(module(tmp_path, val_size=None))
    for split, names in found.items():
        assert names
        assert {Path(name).relative_to(tmp_path).parts[0] for name in names} == {wanted[split]}
        assert f"images for {split}" in caplog.text
    assert len(set().union(*map(set, found.values()))) == 15 * len(folders)


def test_what_is_no_data_set_says_what_is_wanted(root, tmp_path):
    with pytest.raises(DataNotFoundError, match=r"no folder .*nowhere.*\n.*DIR/CLASS/IMAGE"):
        module(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    shutil.copy(root / "train" / "n01_white" / "000.png", tmp_path / "images")
    with pytest.raises(DataNotFoundError, match=r"cannot be used: Couldn't find any class folder.*\n.*data\.root=DIR"):
        module(tmp_path / "images")
    (tmp_path / "x" / "test" / "a").mkdir(parents=True)
    with pytest.raises(DataNotFoundError, match=r"no folder .*train beside test"):
        module(tmp_path / "x")
    shutil.copytree(root / "train" / "n01_white", tmp_path / "one" / "n01_white")
    with pytest.raises(ValueError, match="one class only, n01_white"):
        module(tmp_path / "one")


def test_the_transform_fits_the_network():
    image = Image.new("RGB", (90, 70), (10, 200, 30))

    def size(**options) -> tuple[int, ...]:
        return tuple(prescribed_transform(**options)(image).shape)

    assert size() == (3, 224, 224)
    assert size(size=32) == size(network="my_package.Net", weights="mine", size=32) == (3, 32, 32)
    assert size(network="inception_v3") == (3, 299, 299)
    assert size(network="torchvision.models.efficientnet_b1", weights="DEFAULT") == (3, 240, 240)
    assert size(network="resnet50", size=64) == (3, 64, 64)

    def resized(**options) -> list[int]:
        return prescribed_transform(**options).transforms[1].resize_size  # type: ignore[attr-defined]

    assert resized(network="resnet50") == [256]
    assert resized(network="resnet50", weights="IMAGENET1K_V2") == [232]
    assert resized(weights=RESNET) == resized(weights=RESNET, network="resnet18")
    with pytest.raises(ValueError, match=r"resnet50 has IMAGENET1K_V1, IMAGENET1K_V2.*data\.transform\.weights"):
        prescribed_transform("IMAGENET1K_V3", "resnet50")
    with pytest.raises(ValueError, match=r"takes no size.*data\.transform\.size"):
        prescribed_transform(network="retinanet_resnet50_fpn", size=100)


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["model=torchvision", "model.name=resnet50"], 224),
        (["model=torchvision", "model.name=efficientnet_b1", "model.weights=DEFAULT"], 240),
        (["model=inception_v3"], 299),
        (["model=digits_convnet", "data.transform.size=16"], 16),
        (["model=module", "model._target_=torchvision.models.inception_v3"], 299),
    ],
)
def test_the_configuration_says_it_too(words, size):
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("probe", ["data=image_folder", "logger=none", *words])
    data = hydra.utils.instantiate(cfg.data)
    assert data._transform(Image.new("RGB", (300, 300))).shape == (3, size, size)


def test_the_share_of_one_is_everything(root: Path) -> None:
    whole, one = module(root, test_size=1.0), module(root, test_size=1)
    for data in (whole, one):
        data.setup()
    assert len(one.test_dataloader().dataset) == 1  # type: ignore[arg-type]
    assert len(whole.test_dataloader().dataset) == len(module_test(root))  # type: ignore[arg-type]


def module_test(root: Path) -> list[Path]:
    return [path for path in (root / "val").rglob("*") if path.is_file()]
