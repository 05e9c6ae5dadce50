"""The callback in the configuration of a LightningCLI, whose parser reads the signatures of classes."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import pytorch_lightning as pl

import layerprobe

pytest.importorskip("jsonargparse")

PROTOCOLS: list[dict[str, Any]] = [
    {"l2": [0.01, 0.1], "reducers": [{"class_path": "layerprobe.Flatten"}]},
    {
        "class_path": "layerprobe.ProbeProtocol",
        "init_args": {
            "solvers": [{"class_path": "layerprobe.Ridge"}],
            "task": {"class_path": "layerprobe.Regression"},
            "inputs": {"class_path": "layerprobe.Item", "init_args": {"path": "x"}},
        },
    },
]


class Net(pl.LightningModule):
    pass


@pytest.mark.filterwarnings("ignore::UserWarning")  # defaults that are objects are not written to the CLI's own file
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_protocol_is_built_of_its_words(protocol: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["main.py"])
    from pytorch_lightning.cli import LightningCLI

    given = {"class_path": "layerprobe.ProbeCallback", "init_args": {"every_n_epochs": 5, "protocol": protocol}}
    words = {"trainer": {"callbacks": [given], "accelerator": "cpu", "logger": False, "enable_checkpointing": False}}
    cli = LightningCLI(Net, run=False, args=words, save_config_callback=None, seed_everything_default=False)
    (callback,) = (one for one in cli.trainer.callbacks if isinstance(one, layerprobe.ProbeCallback))  # type: ignore[attr-defined]
    if "class_path" in protocol:
        assert isinstance(callback.protocol.task, layerprobe.Regression)
        assert callback.protocol.inputs == layerprobe.Item("x")
    else:
        assert isinstance(callback.protocol.task, layerprobe.Classification)
        assert callback.protocol.reducers == (layerprobe.Flatten(),)
        assert list(callback.protocol.l2) == [0.01, 0.1]
