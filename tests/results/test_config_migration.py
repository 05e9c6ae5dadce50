"""What 0.1 wrote: `configurations_of_0_1.jsonl` holds its `config.json` for some command lines."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

import layerprobe
from layerprobe.config import as_typed, register
from layerprobe.jobs.config_check import checked, wrong_values
from layerprobe.results.checkpoint_ledger import Entry, Ledger, OtherResultsError
from layerprobe.results.config_migration import PACKAGES, current_key, migrated, with_current_keys
from layerprobe.results.run_directory import RunDirectory
from layerprobe.training.checkpoints import freeze, load
from layerprobe.types import CheckpointInfo

CONF = Path(__file__).resolve().parents[2] / "conf"
WRITTEN = [
    json.loads(line) for line in Path(__file__).with_name("configurations_of_0_1.jsonl").read_text().splitlines()
]


def composed(script: str, *words: str) -> Any:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(script, as_typed(words))


def test_every_former_name_leads_to_a_public_one() -> None:
    former = set(re.findall(r'"(layerprobe\.[^"]+)"', json.dumps(WRITTEN)))
    public = [migrated(name) for name in former]
    assert len(former) > 30
    assert set(public) <= {f"layerprobe.{name}" for name in layerprobe.__all__}
    for name in public:
        assert callable(hydra.utils.get_object(name)), name


@pytest.mark.parametrize("name", ["training.checkpoints.load", "jobs.probe.probe", "models.xor.XorNetwork"])
def test_what_no_configuration_holds_under_a_public_name_stays(name: str) -> None:
    assert migrated(f"layerprobe.{name}") == f"layerprobe.{name}"


def test_names_in_any_place_are_migrated_and_others_are_not() -> None:
    path = "layerprobe.probing.batches.inputs_of"
    before = {"a": [{"_target_": "layerprobe.probing.solvers.ridge.Ridge"}], "path": path, "b": (1, None), "c": "x"}
    after = {"a": [{"_target_": "layerprobe.Ridge"}], "path": "layerprobe.inputs_of", "b": (1, None), "c": "x"}
    assert migrated(before) == after
    assert migrated(after) == after
    assert migrated({"_target_": "other.probing.solvers.ridge.Ridge"})["_target_"].startswith("other.")


@pytest.mark.parametrize("written", WRITTEN, ids=[f"{one['script']} {one['words']}"[:60] for one in WRITTEN])
def test_a_run_of_before_is_the_same_run(tmp_path: Path, written: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(written["config"]))
    config: Any = OmegaConf.to_container(composed(written["script"], *written["words"].split()), resolve=True)
    run = RunDirectory(tmp_path)
    assert run.differences(config) == []
    other = json.loads(json.dumps(config).replace("layerprobe.ProbeProtocol", "layerprobe.Other"))
    assert run.differences(other)


@pytest.mark.parametrize(
    ("word", "key"),
    [("solver.ridge.tolerance=1e-6", "solver"), ("solver.ridge.largest=9", "solver"), ("probe.refit=true", "refit")],
)
def test_another_value_of_what_was_not_named_is_another_run(tmp_path: Path, word: str, key: str) -> None:
    written = next(one for one in WRITTEN if "ridge" in one["words"])
    (tmp_path / "config.json").write_text(json.dumps(written["config"]))
    words = [*written["words"].split(), word]
    config: Any = OmegaConf.to_container(composed(written["script"], *words), resolve=True)
    assert any(key in difference for difference in RunDirectory(tmp_path).differences(config))


def test_results_of_before_are_of_the_same_network_and_protocol(tmp_path: Path) -> None:
    solver = {"_target_": "layerprobe.probing.solvers.logistic.Logistic", "tolerance": 1e-5}
    before = Entry("a.ckpt", "123", {"probe": {"solvers": [solver]}}, complete=True)
    Ledger(tmp_path).write("final", before)
    now = replace(before, config={"probe": {"solvers": [solver | {"_target_": "layerprobe.Logistic"}]}})
    assert Ledger(tmp_path).is_complete("final", now, has_results=True)
    other = replace(before, config={"probe": {"solvers": [solver | {"_target_": "layerprobe.Ridge"}]}})
    with pytest.raises(OtherResultsError, match="Logistic"):
        Ledger(tmp_path).is_complete("final", other, has_results=True)


def test_a_checkpoint_of_before_is_built_by_public_names(tmp_path: Path) -> None:
    network = {"_target_": "layerprobe.models.digits_convnet.DigitsConvNet"}
    model = {"_target_": "layerprobe.models.classifier.Classifier", "network": network}
    freeze(torch.nn.Linear(2, 2).state_dict(), tmp_path / "a.ckpt", CheckpointInfo("a"), {"model": model})
    config = load(tmp_path / "a.ckpt").config
    assert config == {
        "model": {"_target_": "layerprobe.Classifier", "network": {"_target_": "layerprobe.DigitsConvNet"}}
    }


def test_former_names_on_the_command_line_are_taken() -> None:
    target = "layerprobe.probing.solvers.ridge.Ridge"
    cfg = composed("train", f"solver.logistic._target_={target}", "run_dir=x", "name=x", "logger=none")
    logistic = cfg.probe.solvers.logistic
    del logistic.tolerance, logistic.max_iterations, logistic.memory
    assert checked(cfg)["callbacks"]["probe"]["protocol"]["solvers"][0]["_target_"] == "layerprobe.Ridge"
    assert logistic._target_ == "layerprobe.Ridge"


@pytest.mark.parametrize("group", ["inputs", "targets", "task"])
def test_what_the_protocol_needs_cannot_be_left_out(group: str) -> None:
    with pytest.raises(CompactHydraException, match=rf"probe\.{group} is empty. Choose one of conf/{group}: {group}="):
        checked(composed("train", f"~{group}", "run_dir=x", "name=x", "logger=none"))


def test_a_reference_to_a_former_key_is_told_where_it_is() -> None:
    for key, now in (("task", "probe.task"), ("solver.logistic.memory", "probe.solvers.logistic.memory")):
        with pytest.raises(CompactHydraException, match=rf"'{key}' not found\. It is now under {now}: \$\{{{now}\}}$"):
            checked(composed("train", f"name=${{{key}}}", "run_dir=x", "logger=none"))
    with pytest.raises(CompactHydraException, match=r"'nothing' not found$"):
        checked(composed("train", "name=${nothing}", "run_dir=x", "logger=none"))


def test_what_a_group_chooses_may_be_said_by_the_group() -> None:
    words = ["+reducer.flatten.x=1", "targets=lookup", "targets.values=[1,0]", "~solver.logistic.memory", "data.root=x"]
    assert as_typed(words) == [
        "+probe.reducers.flatten.x=1", "targets=lookup", "probe.targets.values=[1,0]",
        "~probe.solvers.logistic.memory", "data.root=x",
    ]  # fmt: skip
    assert as_typed(["task.class_weight=a b"]) == ["probe.task.class_weight=a b"]


def test_a_file_of_each_group_is_where_its_former_key_leads() -> None:
    for group, package in PACKAGES.items():
        heads = {file.read_text().splitlines()[0] for file in (CONF / group).glob("*.yaml")}
        assert heads == {f"# @package {package}"}
        assert current_key(group) == package


def test_keys_of_before_are_those_of_today() -> None:
    before = {"solver.ridge.largest": 9, "analysis": {}, "probe.solvers": [{}], "probe.analyses": [], "probe.l2": [1]}
    assert with_current_keys(before) == {"probe.solvers.ridge.largest": 9, "probe.analyses": {}, "probe.l2": [1]}
    ledger = {"probe.solvers": [{}], "probe.targets.path": 1}
    assert with_current_keys(ledger) == ledger, "it has lists alone, and always had"


def test_a_class_that_is_gone_is_named_with_what_to_choose_instead() -> None:
    target = "layerprobe.probing.solvers.sgd.SGD"
    cfg = composed("train", f"solver.logistic._target_={target}", "run_dir=x", "name=x", "logger=none")
    found = wrong_values(OmegaConf.to_container(cfg, resolve=True))
    assert set(found) >= {"probe.solvers.logistic._target_"}
    assert "is gone" in found["probe.solvers.logistic._target_"]
    assert "kept on disk, and every head ends with its certificate" in found["probe.solvers.logistic._target_"]
    assert migrated({"_target_": target}) == {"_target_": target}, "an older run is still read"
