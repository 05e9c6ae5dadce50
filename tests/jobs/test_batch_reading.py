"""How `scripts/probe.py` reads batches: as the run of a checkpoint did, where the command line is silent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

import layerprobe
from helpers.command import ROOT, call
from helpers.foreign import ForeignNet
from layerprobe.config import register
from layerprobe.jobs.probe import Builder, Built, checkpoints_of
from layerprobe.training.checkpoints import CheckpointError, freeze
from layerprobe.types import CheckpointInfo

DATA = "helpers.foreign.RecordsDataModule"
NET = "helpers.foreign.ForeignNet"
RUN = (
    "inputs=items", "inputs.paths={pixels: pixels}", "targets=item", "targets.path=meta.ink", "task=regression",
    "solver=[ridge]", "callbacks.probe.loaders.test=1", "+probe.mask._target_=layerprobe.Item", "+probe.mask.path=m",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_job() -> Iterator[None]:
    yield
    HydraConfig.instance().cfg = None


def composed(script: str, *overrides: str) -> Any:
    register(script)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        moved = [f"probe.{one}" if one.startswith(("inputs.", "targets.")) else one for one in overrides]
        cfg = compose(script, ["run_dir=run", "logger=none", *moved], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg.hydra
    return cfg


def checkpoint(path: Path, *run: str, **changed: Any) -> str:
    cfg = composed("train", "~data", f"+data._target_={DATA}", "name=x", *run)
    cfg.trainer = {"max_epochs": 1}
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    plain["probe"] |= changed
    torch.manual_seed(0)
    freeze(ForeignNet(6).state_dict(), path, CheckpointInfo("final", 1, 1), plain)
    return f"checkpoint='{path}'"


def built(*overrides: str) -> tuple[Built, dict[str, Any]]:
    given = (f"+model._target_={NET}", "+model.width=6", f"+data._target_={DATA}", *overrides)
    builder = Builder(composed("probe", *given))
    source = checkpoints_of(builder.cfg)[0]
    found = builder.open(source)
    config = builder.config(found)
    return builder.build(found, config), config


def test_what_the_command_line_leaves_open_is_as_in_the_run(tmp_path: Path) -> None:
    found, config = built(checkpoint(tmp_path / "x.ckpt", *RUN), "reducer=flatten")
    assert found.protocol.inputs == layerprobe.Items({"pixels": "pixels"})
    assert found.protocol.targets == layerprobe.Item("meta.ink")
    assert found.protocol.mask == layerprobe.Item("m")
    assert isinstance(found.protocol.task, layerprobe.Regression)
    assert [type(solver) for solver in found.protocol.solvers] == [layerprobe.Ridge]
    assert [type(reducer) for reducer in found.protocol.reducers] == [layerprobe.Flatten], "the sweep is asked anew"
    assert len(found.data["test"].dataset) == 500, "the run's own loader of test"  # type: ignore[union-attr, arg-type]
    assert config["probe"]["targets"] == {"_target_": "layerprobe.Item", "path": "meta.ink"}, "kept in the ledger"


def test_the_command_line_goes_before_the_run(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "x.ckpt", *RUN)
    found, _ = built(file, "targets=item", "targets.path=label", "loaders.test=0")
    assert found.protocol.inputs == layerprobe.Items({"pixels": "pixels"})
    assert found.protocol.targets == layerprobe.Item("label")
    assert isinstance(found.protocol.task, layerprobe.Classification), "the run's task is that of its targets"
    assert [type(solver) for solver in found.protocol.solvers] == [layerprobe.Logistic]
    assert len(found.data["test"].dataset) == 300  # type: ignore[union-attr, arg-type]
    found, _ = built(file, "inputs=pair", "targets=parity", "task=multi_label")
    assert (found.protocol.inputs, found.protocol.targets) == (layerprobe.inputs_of, layerprobe.Parity(1))
    assert isinstance(found.protocol.task, layerprobe.MultiLabel)
    found, _ = built(file, "solver=[ridge]", "probe.solvers.ridge.leave_one_out=true")
    assert [solver.leave_one_out for solver in found.protocol.solvers] == [True]  # type: ignore[attr-defined]


@pytest.mark.parametrize("of_run", [(), ("targets=parity",)])
def test_a_run_of_pairs_and_a_file_without_a_run_are_read_as_pairs(tmp_path: Path, of_run: tuple[str, ...]) -> None:
    file = checkpoint(tmp_path / "x.ckpt", *of_run)
    found, config = built(file, "loaders.test=0")
    assert found.protocol.inputs is layerprobe.inputs_of
    assert found.protocol.targets == (layerprobe.Parity(1) if of_run else layerprobe.targets_of)
    assert config["probe"]["inputs"] == {"_target_": "hydra.utils.get_method", "path": "layerprobe.inputs_of"}
    torch.save(ForeignNet(6).state_dict(), tmp_path / "alone.ckpt")
    found, config = built(f"checkpoint='{tmp_path / 'alone.ckpt'}'", "loaders.test=0")
    assert (found.protocol.inputs, found.protocol.targets) == (layerprobe.inputs_of, layerprobe.targets_of)
    assert config["loaders"] == {"train": None, "val": None, "test": 0}


@pytest.mark.parametrize(
    "changed",
    [
        {"inputs": {"_target_": "os.system", "command": "true"}},
        {"targets": {"_target_": "hydra.utils.get_method", "path": "os.system"}},
        {"mask": {"_target_": "layerprobe.Item", "path": {"_target_": "os.getcwd"}}},
        {"solvers": [{"_target_": "layerprobe.Ridge", "tolerance": {"_target_": "os.getcwd"}}]},
    ],
)
def test_a_file_names_no_other_code(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"was refused: its \S+_target_ is '(os|hydra)\."):
        built(checkpoint(tmp_path / "x.ckpt", *RUN, **changed))


@pytest.mark.slow
def test_a_run_of_batches_that_are_no_pairs_is_probed_again_without_a_word_on_them(tmp_path: Path) -> None:
    quick = ("logger=none", "report.figures=false", "probe.l2=[1e-2]")
    data, net = f"+data._target_={DATA}", ("model=module", f"model._target_={NET}", "+model.width=6")
    words = ("~data", data, *net, *RUN[:-2], "trainer.max_epochs=1", "hydra.run.dir=run", *quick)
    code, output = call("train.py", *words, cwd=tmp_path, path=ROOT / "tests")
    assert code == 0, output
    assert "ForeignNet has no test_step()" in output
    words = ("checkpoint=run/checkpoints", f"+model._target_={NET}", data, "hydra.run.dir=again", *quick)
    code, output = call("probe.py", *words, cwd=tmp_path, path=ROOT / "tests")
    assert code == 0, output
    assert "final is read as its run read it: inputs={" in output
    one, other = (pd.read_parquet(tmp_path / run / "probes" / "results.parquet") for run in ("run", "again"))
    pd.testing.assert_frame_equal(*(each.drop(columns="seconds") for each in (one, other)))
