"""Networks that are no LightningModule: trained, frozen, and found again by `scripts/probe.py`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from helpers.command import call
from helpers.made_images import make_image_folder
from layerprobe.models.classifier import Classifier, trainable

QUICK = ("logger=none", "report.figures=false", "probe.l2=[1e-2]", "reducer=channel_mean")
TINY = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())
        self.top = nn.Linear(width, 10)

    def forward(self, images):
        return self.top(self.body(images))
"""


def results(run_dir: Path) -> pd.DataFrame:
    found = pd.read_parquet(run_dir / "probes" / "results.parquet").drop(columns="seconds")
    return found[found["checkpoint"] == "final"].reset_index(drop=True)


def done(script: str, *words: str, cwd: Path) -> str:
    code, output = call(script, *words, *QUICK, cwd=cwd, path=cwd)
    assert code == 0, output
    return output


def test_a_class_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "tiny_networks.py").write_text(TINY)
    own = ("model=module", "model._target_=tiny_networks.Net", "+model.width=6", "trainer.max_epochs=2")
    done("train.py", *own, "optimizer=sgd", "scheduler=cosine", "hydra.run.dir=run", cwd=tmp_path)
    trained = results(tmp_path / "run")
    assert not (tmp_path / "run" / "figures").exists()
    assert trained["layer"].tolist() == ["input", "body.1", "body.2", "top"]
    initial = pd.read_parquet(tmp_path / "run" / "probes" / "results.parquet").query("checkpoint == 'initial'")
    assert not initial["test_loss"].reset_index(drop=True).equals(trained["test_loss"]), "it has learnt"
    saved = torch.load(tmp_path / "run" / "checkpoints" / "final.ckpt", weights_only=True)
    assert saved["layerprobe"]["config"]["optimizer"]["_target_"] == "torch.optim.SGD"
    file = "checkpoint=run/checkpoints/final.ckpt"
    done("probe.py", file, "+model._target_=tiny_networks.Net", "hydra.run.dir=again", cwd=tmp_path)
    pd.testing.assert_frame_equal(results(tmp_path / "again"), trained)
    code, output = call("probe.py", file, "hydra.run.dir=third", *QUICK, cwd=tmp_path)
    assert code == 1
    assert "'tiny_networks.Net'" in output, "the negative control: a class of nobody knows where is not built unnamed"
    assert "Traceback" not in output


@pytest.mark.slow
def test_torchvision_by_name(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "images", train=8, val=4, size=32)
    data = ("data=image_folder", "data.root=images", "data.transform.size=32", "probe.layers=[layer1.0.*,fc]")
    network = ("model=torchvision", "model.name=resnet18", "+model.num_classes=3")
    output = done("train.py", *network, *data, "trainer.max_epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    assert "images/val: 12 images for test" in output
    trained = results(tmp_path / "run")
    assert {"layer1.0.conv1", "layer1.0.bn2", "fc"} <= set(trained["layer"])
    file = "checkpoint=run/checkpoints/final.ckpt"
    done("probe.py", file, "probe.layers=[layer1.0.*,fc]", "hydra.run.dir=again", cwd=tmp_path)
    pd.testing.assert_frame_equal(results(tmp_path / "again"), trained)


def classifier(network: nn.Module) -> pl.LightningModule:
    return trainable(network, lambda named: torch.optim.SGD(dict(named).values(), lr=0.1), None)


def test_a_module_that_trains_itself_is_left_as_it_is() -> None:
    linear = nn.Linear(3, 2)
    wrapped = classifier(linear)
    assert isinstance(wrapped, Classifier)
    assert wrapped.network is linear
    assert classifier(wrapped) is wrapped


def test_what_cannot_be_trained_so_is_told() -> None:
    class LightningModule(nn.Module):
        pass

    LightningModule.__module__ = "lightning.pytorch.core.module"
    with pytest.raises(TypeError, match="of the package `lightning`, the trainer is one of `pytorch_lightning`"):
        classifier(type("Theirs", (LightningModule,), {})())
    with pytest.raises(TypeError, match=r"gave a dict, expected a network"):
        trainable({}, torch.optim.SGD, None)
    batch = (torch.zeros(4, 3), torch.tensor([0, 1, 2, 1]))
    with pytest.raises(ValueError, match="Linear gives 2 scores, found the class 2"):
        classifier(nn.Linear(3, 2)).objective(nn.Linear(3, 2)(batch[0]), batch[1])
    wrong = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    with pytest.raises(TypeError, match=r"one score for each class \(n c\), Sequential gave shape \(4,\)"):
        classifier(wrong).objective(wrong(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (torch.zeros(4), "float32 of shape"),
        (torch.zeros(4, 1).long(), "int64 of shape"),
        (("a", "b", "a", "b"), "a tuple"),
        (torch.tensor([-1, 0, 0, 1]), "found the class -1"),
    ],
)
def test_targets_that_are_no_class_indices_are_named(targets: Any, found: str) -> None:
    learner: Any = trainable(nn.Linear(3, 2), partial(torch.optim.SGD, lr=0.1), None)
    with pytest.raises((TypeError, ValueError), match=found):
        learner.objective(torch.zeros(4, 2), targets)
