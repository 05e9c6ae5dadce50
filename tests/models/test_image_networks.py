from __future__ import annotations

import builtins
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPImageProcessor,
    CLIPModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from helpers.command import ROOT
from layerprobe.config import register
from layerprobe.data.errors import DataError
from layerprobe.data.prescribed_transform import prescribed_transform
from layerprobe.models.pretrained import ModelError
from layerprobe.models.pretrained_vision import vision_model
from layerprobe.models.timm_network import timm_network

SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    with torch.random.fork_rng():
        torch.manual_seed(7)  # another than that of random weights
        network = ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=5))
    network.save_pretrained(folder)
    mean, deviation = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    size = {"height": 32, "width": 32}
    ViTImageProcessor(size=size, image_mean=mean, image_std=deviation).save_pretrained(folder)
    return folder


def test_a_folder_gives_the_network_that_was_saved(vit: Path) -> None:
    saved = ViTForImageClassification.from_pretrained(vit).eval()
    with torch.no_grad():
        scores, bare = (vision_model(str(vit), head=head).eval()(IMAGES) for head in (True, False))
        expected = saved(IMAGES, output_hidden_states=True)
    assert torch.equal(scores, expected.logits)
    assert torch.equal(bare.last_hidden_state, saved.vit.layernorm(expected.hidden_states[-1]))
    assert not torch.equal(vision_model(str(vit), weights="random").eval()(IMAGES), scores), "the negative control"


def test_of_images_and_texts_it_is_the_part_for_images(tmp_path: Path) -> None:
    text = SMALL | {"vocab_size": 20, "max_position_embeddings": 8}
    config = CLIPConfig(text_config=text, vision_config=SMALL | {"image_size": 32, "patch_size": 8})
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        found = vision_model(str(tmp_path), head=False).eval()(IMAGES).last_hidden_state
        assert torch.equal(found, model.vision_model(IMAGES).last_hidden_state)


def test_a_classifier_of_images_and_texts_keeps_its_classes(tmp_path: Path) -> None:
    config = CLIPConfig(vision_config=SMALL | {"image_size": 32, "patch_size": 8}, num_labels=3)
    model = CLIPForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(vision_model(str(tmp_path)).eval()(IMAGES), model(IMAGES).logits)


def test_the_transform_is_that_of_the_image_processor(vit: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
    found = prescribed_transform(network=str(vit), builder="layerprobe.vision_model")(Image.fromarray(pixels))
    expected = (pixels / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)
    grey = prescribed_transform(network=str(vit), builder="layerprobe.vision_model", size=16)(Image.new("L", (50, 40)))
    assert grey.shape == (3, 16, 16)
    with pytest.raises(DataError, match=r"has no image processor.*data\.transform\._target_"):
        prescribed_transform(network=str(tmp_path), builder="layerprobe.vision_model")


def test_another_size_keeps_the_shape_as_the_image_processor_does(tmp_path: Path) -> None:
    """The shortest edge of what is cropped afterwards stays in its proportion to the crop."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(40, 80, 3), dtype=np.uint8))
    for crop in (True, False):
        folder = tmp_path / str(crop) / "step10"
        given = {"size": {"shortest_edge": 64}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": crop}
        CLIPImageProcessor(**given).save_pretrained(folder)
        own = CLIPImageProcessor(**given | {"size": {"shortest_edge": 32}, "crop_size": {"height": 16, "width": 16}})
        own = own if crop else CLIPImageProcessor(**given | {"size": {"shortest_edge": 16}})
        build = partial(prescribed_transform, builder="layerprobe.vision_model", size=16)
        found = build(network=str(folder))(picture)
        torch.testing.assert_close(found, own(picture, return_tensors="pt")["pixel_values"][0])
        assert found.shape == (3, 16, 16 if crop else 32)
        of_revision = build(network=str(tmp_path / str(crop)), revision="step10")(picture)
        assert torch.equal(of_revision, found), "a folder of revisions takes that of the revision"


def test_an_image_processor_without_a_size_says_that_it_has_none(tmp_path: Path) -> None:
    images = {"input_size": [3, 64, 64], "mean": [0, 0, 0], "std": [1, 1, 1], "crop_pct": 0.9}
    config = {"architecture": "resnet18", "num_classes": 10, "pretrained_cfg": images}
    (tmp_path / "config.json").write_text(json.dumps(config))
    build = partial(prescribed_transform, network=str(tmp_path), builder="layerprobe.vision_model")
    assert build()(Image.new("RGB", (80, 80))).shape == (3, 64, 64)
    with pytest.raises(ValueError, match=r"is TimmWrapperImageProcessor, which takes no size\. Leave out data\.trans"):
        build(size=32)


def test_half_precision_takes_images_as_they_are(vit: Path) -> None:
    with torch.no_grad():
        found = vision_model(str(vit), dtype="bfloat16", revision="main").eval()(IMAGES)
    assert found.dtype == torch.bfloat16


def test_any_network_of_timm_with_weights_of_a_file(tmp_path: Path) -> None:
    saved = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3, depth=1).eval()
    save_file(saved.state_dict(), tmp_path / "weights.safetensors")
    options: dict[str, Any] = {"img_size": 32, "num_classes": 3, "depth": 1}
    before = torch.get_rng_state()
    found = timm_network("vit_tiny_patch16_224", str(tmp_path / "weights.safetensors"), **options)
    first, again, other = (timm_network("vit_tiny_patch16_224", "random", seed, **options) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert found.training, "as every network that is to be trained"
    with torch.no_grad():
        assert torch.equal(found.eval()(IMAGES), saved(IMAGES))
    assert torch.equal(first.blocks[0].attn.qkv.weight, again.blocks[0].attn.qkv.weight)  # type: ignore[union-attr]
    assert not torch.equal(first.blocks[0].attn.qkv.weight, other.blocks[0].attn.qkv.weight)  # type: ignore[union-attr]


def test_the_transform_is_that_of_timms_own_configuration() -> None:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = ["data=image_folder", "model=timm", "model.name=vit_tiny_patch16_224", "logger=none"]
        cfg = compose("probe", words)
    grey = Image.new("RGB", (300, 280), (64, 64, 64))
    found = instantiate(cfg.data.transform)(grey)
    assert found.shape == (3, 224, 224)
    torch.testing.assert_close(found, torch.full_like(found, (64 / 255 - 0.5) / 0.5)), "this one has no ImageNet mean"
    other = prescribed_transform(network="resnet18.a1_in1k", builder="layerprobe.timm_network", size=96)(grey)
    torch.testing.assert_close(
        other[:, 0, 0], (64 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )
    assert other.shape == (3, 96, 96)


def _wrong_weights(folder: Path) -> str:
    save_file({"other": torch.zeros(2)}, folder / "weights.safetensors")
    return str(folder / "weights.safetensors")


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet19", lambda folder: "random", r"no network 'resnet19'.*There is .*resnet.*timm\.list_models"),
        ("resnet18", _wrong_weights, r"no network 'resnet18'.*model\.weights=FILE"),
        ("resnet18", lambda folder: str(folder / "no.pth"), "There is no file .*no.pth"),
    ],
)
def test_a_network_that_cannot_be_had_is_one_clear_error(tmp_path: Path, name: str, weights: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        timm_network(name, weights(tmp_path))


def test_weights_that_cannot_be_downloaded_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"'resnet18'.*network connection.*random for an untrained"):
        timm_network("resnet18")


@pytest.mark.parametrize(
    "build", [timm_network, lambda name: prescribed_transform(None, name, None, "layerprobe.timm_network")]
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, build: Any) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "timm":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'layerprobe\[timm\]'"):
        build("resnet18")
