"""What a network is called that no checkpoint was given for."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from helpers.command import ROOT
from layerprobe.config import register
from layerprobe.training.initial_weights import as_built, with_random_weights

FOREIGN = {"_target_": "foreign.ForeignNet"}


def _name(*overrides: str) -> str:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("probe", ["data=digits", "run_dir=run", "logger=none", *overrides])
    return as_built(OmegaConf.to_container(cfg.model, resolve=True), get_object).name


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["model=digits_convnet"], "untrained"),
        (["model=xor_mlp"], "untrained"),
        (["model=deep_mlp"], "untrained"),
        (["model=inception_v3"], "untrained"),
        (["model=torchvision", "model.name=resnet18"], "untrained"),
        (["model=torchvision", "model.name=resnet18", "model.weights=DEFAULT"], "pretrained"),
        (["model=inception_v3", "model.network.weights=IMAGENET1K_V1"], "pretrained"),
        (["model=hf_encoder", "model.name=x"], "pretrained"),
        (["model=hf_encoder", "model.name=x", "model.weights=random"], "untrained"),
        (["model=hf_lm", "model.name=x", "model.weights=random"], "untrained"),
    ],
)
def test_every_model_of_the_configuration(overrides: list[str], name: str) -> None:
    assert _name(*overrides) == name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"_target_": "torchvision.models.resnet18"}, "untrained"),
        ({"_target_": "torchvision.models.get_model", "name": "resnet18"}, "untrained"),
        ({"_target_": "torchvision.models.get_model", "name": "fcn_resnet50", "weights": None}, "pretrained"),
        ({"_target_": "torchvision.models.segmentation.fcn_resnet50", "weights": None}, "pretrained"),
        ({"_target_": "torchvision.models.get_model", "name": "no such"}, "as_built"),
        ({"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"}, "pretrained"),
        ({"_target_": "timm.create_model", "model_name": "x", "pretrained": False}, "untrained"),
        ({"_target_": "timm.create_model", "model_name": "x", "pretrained": True}, "pretrained"),
        ({"_target_": "transformers.AutoModel.from_pretrained", "name": "x"}, "pretrained"),
        ({"_target_": "torch.hub.load", "repo_or_dir": "x", "model": "y"}, "as_built"),
        (FOREIGN, "as_built"),
        ({"_target_": "layerprobe.models.classifier.Classifier", "network": FOREIGN}, "as_built"),
        ({"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.Linear"}]}, "untrained"),
        ({"_target_": "no.such.Class"}, "as_built"),
        ({}, "as_built"),
    ],
)  # fmt: skip
def test_networks_of_others(model: dict, name: str) -> None:
    assert as_built(model, get_object).name == name


@pytest.mark.parametrize(
    ("model", "random"),
    [
        ({"_target_": "layerprobe.encoder", "name": "x"}, {"weights": "random"}),
        ({"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"}, {"weights": None}),
        (
            {"_target_": "timm.create_model", "model_name": "x", "pretrained": True},
            {"pretrained": False, "checkpoint_path": None},
        ),
        ({"_target_": "layerprobe.encoder", "name": "x", "weights": "random"}, {}),
        ({"_target_": "timm.create_model", "_args_": ["x", False]}, {}),
        (FOREIGN, {}),
    ],
)
def test_the_same_network_with_random_weights(model: dict, random: dict) -> None:
    found = with_random_weights(model, get_object)
    assert found == model | random
    outer = {"_target_": "layerprobe.models.classifier.Classifier", "network": model}
    assert with_random_weights(outer, get_object) == outer | {"network": found}


def test_what_a_checkpoint_or_a_builder_would_say_otherwise_is_said() -> None:
    model = {"_target_": "torchvision.models.get_model", "name": "fcn_resnet50"}
    assert with_random_weights(model, get_object) == model | {"weights": None, "weights_backbone": None}


def test_a_network_that_brings_its_weights_along_has_no_untrained_one() -> None:
    with pytest.raises(ValueError, match="leave `untrained` out"):
        with_random_weights({"_target_": "transformers.AutoModel.from_pretrained", "name": "x"}, get_object)
