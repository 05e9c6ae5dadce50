"""What the configuration in a checkpoint of others may build, and what it may not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import nn

from helpers.command import ROOT
from layerprobe.config import register
from layerprobe.jobs.probe import Builder, checkpoints_of
from layerprobe.jobs.trusted_classes import merged, plain_precision
from layerprobe.models.digits_convnet import DigitsConvNet
from layerprobe.training.checkpoints import CheckpointError, freeze, load
from layerprobe.types import CheckpointInfo

HOSTILE = [
    "pathlib.Path.write_text",
    "os.system",
    "builtins.eval",
    "antigravity.geohash",
    "hydra.utils.get_method",
    "layerprobe.quoting.shlex.os.system",
    "layerprobe.models.pretrained.Path",
    "layerprobe.models.pretrained.Path.write_text",
    "layerprobe.models.pretrained.log.info",
    "layerprobe.models.pretrained._reason",
    "layerprobe.data.text_table.pd.read_pickle",
    "layerprobe.data.mnist.MNIST",
    "layerprobe.files.atomic.write_bytes",
    "layerprobe.training.checkpoints.load",
    "torch.load",
    "torch.nn.modules.module.torch.load",
    "torch.nn.Module.load_state_dict",
    "torch.nn.modules.module.functools.partial",
    "torch.nn.DataParallel",
    "torchvision.datasets.utils.download_url",
    "torchvision.models._api.Weights",
    "torchvision.models.get_weight",
    ["os.system"],
    None,
]


def digits_config(**model: Any) -> dict[str, Any]:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["run_dir=run", "logger=none", "name=x"])
    cfg.callbacks, cfg.trainer = {}, {"max_epochs": 1}
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return plain | {"model": plain["model"] | model}


def refused(own: dict[str, Any], given: dict[str, Any] | None = None, match: str = "was refused") -> None:
    with pytest.raises(CheckpointError, match=match):
        merged("model", own, given or {}, "x.ckpt", trust=False)


@pytest.mark.parametrize("target", HOSTILE)
@pytest.mark.parametrize("place", ["top", "part", "list", "partial", "unrecursive"])
def test_no_target_of_a_file_reaches_code_that_is_not_meant(target: Any, place: str) -> None:
    bad = {"_target_": target, "_args_": ["echo"]}
    network = {"_target_": "torch.nn.Sequential"}
    refused(
        {
            "top": bad,
            "part": network | {"x": {"y": bad}},
            "list": network | {"_args_": [[bad]]},
            "partial": network | {"x": bad | {"_partial_": True}},
            "unrecursive": network | {"x": bad, "_recursive_": False},
        }[place],
        match=r"its model\S*\._target_ is .*trust_checkpoint=true.*model=NAME",
    )


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "x ${seed}", "${hydra:runtime.cwd}"])
def test_nothing_of_a_file_is_resolved(value: str) -> None:
    refused({"_target_": "torch.nn.Linear", "x": [{"y": value}]}, match=r"its model\.x\.0\.y is ")


def test_what_runs_here_write_is_built_and_what_the_command_line_names() -> None:
    own = digits_config()
    for name in ("model", "data"):
        assert merged(name, own[name], {}, "x.ckpt", trust=False) == own[name]
    part = {"network": {"_target_": "tests_of_mine.Net", "width": 3}}
    with pytest.raises(CheckpointError, match=r"'\+model\.network\._target_=package\.Class'"):
        merged("model", own["model"] | part, {}, "x.ckpt", trust=False)
    said = merged("model", own["model"], part, "x.ckpt", trust=False)
    assert said["network"]["_target_"] == "tests_of_mine.Net"
    refused(own["model"] | {"extra": {"_target_": "os.system"}}, part)
    trusted = merged("model", {"_target_": "os.system", "x": "${oc.env:NOT_THERE,5}"}, {}, "x.ckpt", trust=True)
    assert trusted == {"_target_": "os.system", "x": "5"}, "the negative control: a file that is trusted names anything"


@pytest.mark.parametrize("trust", [True, False])
def test_remote_code_and_downloads_are_asked_for_by_hand(trust: bool, caplog: pytest.LogCaptureFixture) -> None:
    own = {
        "_target_": "layerprobe.models.pretrained_text.encoder",
        "name": "x",
        "trust_remote_code": True,
        "a": [{"download": 1}],
    }
    logging.getLogger("layerprobe").propagate = True
    found = merged("model", own, {}, "x.ckpt", trust=trust)
    assert (found["trust_remote_code"], found["a"]) == (False, [{"download": False}])
    assert "'+model.trust_remote_code=true'" in caplog.text
    assert merged("model", own, {"trust_remote_code": True}, "x.ckpt", trust=trust)["trust_remote_code"] is True
    if not trust:
        positional = ["x", None, "float32", "pretrained", None, 0, True]
        refused({"_target_": "layerprobe.models.pretrained_text.encoder", "_args_": positional}, match="have no names")


def test_the_precision_of_a_file_is_a_word() -> None:
    assert plain_precision({"trainer": {"precision": "bf16-mixed"}}) == "bf16-mixed"
    for bad in ({"_target_": "os.system"}, "${oc.env:HOME}", ["x"]):
        assert plain_precision({"trainer": {"precision": bad}}) is None
    assert plain_precision({"trainer": "x"}) is None


def test_a_checkpoint_whose_own_words_are_no_configuration(tmp_path: Path) -> None:
    for own in ({"checkpoint": {"name": 3}}, {"checkpoint": {"colour": "red"}}, {"config": "x"}, "x"):
        torch.save({"state_dict": nn.Linear(1, 1).state_dict(), "layerprobe": own}, tmp_path / "x.ckpt")
        with pytest.raises(CheckpointError, match="does not say what it is"):
            load(tmp_path / "x.ckpt")


def build(cfg: DictConfig) -> None:
    builder = Builder(cfg)
    checkpoint = builder.open(checkpoints_of(cfg)[0])
    builder.build(checkpoint, builder.config(checkpoint))


def test_the_script_builds_nothing_of_a_hostile_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attack = {"_target_": "pathlib.Path.write_text", "_args_": [str(tmp_path / "ran"), "x"]}
    attack["_args_"][0] = {"_target_": "pathlib.Path", "_args_": [str(tmp_path / "ran")]}
    network = nn.Module()
    network.network = DigitsConvNet()
    config = digits_config()
    files = {
        "good": config,
        "model": config | {"model": attack},
        "loss": digits_config(loss=attack),
        "data": config | {"data": attack},
        "precision": config | {"trainer": {"precision": attack}},
    }
    for name, content in files.items():
        freeze(network.state_dict(), tmp_path / f"{name}.ckpt", CheckpointInfo(name), content)
    for name in files:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            overrides = [f"run_dir={tmp_path}/run", "logger=none", "probe.l2=[1e-2]", "probe.layers=logits"]
            cfg = compose("probe", [f"checkpoint='{tmp_path}/{name}.ckpt'", *overrides])
        if name in ("good", "precision"):
            build(cfg)
        else:
            with pytest.raises(CheckpointError, match=r"was refused: its \S+ is 'pathlib\.Path\.write_text'"):
                build(cfg)
        assert not (tmp_path / "ran").exists()
    cfg = OmegaConf.merge(cfg, {"checkpoint": f"{tmp_path}/model.ckpt", "trust_checkpoint": True})
    with pytest.raises(TypeError, match="gave a int, expected a network"):
        build(cfg)
    assert (tmp_path / "ran").exists(), "the negative control: a file that is trusted runs what it likes"
