"""What a run may take, and where it writes, is no part of what it is; what is computed is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layerprobe.results.checkpoint_ledger import Entry, Ledger, OtherResultsError
from layerprobe.results.config_identity import NO_PART, differing, identity, matters
from layerprobe.results.run_directory import RunDirectory, RunDirectoryError
from layerprobe.results.run_name import run_name
from layerprobe.results.run_summary import RunSummary

CONFIG: dict[str, Any] = {
    "name": "digits",
    "seed": 0,
    "run_dir": "outputs/1",
    "data": {"_target_": "Digits", "batch_size": 64, "num_workers": 0, "train": {"num_workers": 0}},
    "trainer": {"accelerator": "auto", "devices": 1, "default_root_dir": "outputs/1"},
    "callbacks": {
        "probe": {"protocol": {"l2": [0.1], "max_memory": None, "batch_size": None}, "when": "now"},
        "guard": {"path": "outputs/1/last.ckpt", "every_n_seconds": 300.0},
    },
    "probe": {"l2": [0.1], "max_memory": None, "batch_size": None, "spill_dtype": None},
}

RESOURCES = [
    ("probe.max_memory", "8GiB"),
    ("probe.batch_size", 16),
    ("probe.spill_directory", "/scratch"),
    ("probe.keep", True),
    ("data.num_workers", 4),
    ("data.train.num_workers", 4),
    ("data.pin_memory", True),
    ("callbacks.guard.every_n_seconds", 60.0),
    ("callbacks.probe.progress", True),
    ("callbacks.probe.protocol.max_memory", "8GiB"),
    ("callbacks.probe.resources.max_memory", "8GiB"),
    ("trainer.accelerator", "gpu"),
    ("logger.csv.save_dir", "elsewhere"),
    ("name", "another"),
]

CHANGES = [
    ("seed", 1),
    ("data.batch_size", 16),
    ("data._target_", "Mnist"),
    ("trainer.devices", 2),
    ("probe.l2", [0.2]),
    ("probe.spill_dtype", "bfloat16"),
    ("callbacks.probe.protocol.l2", [0.2]),
    ("callbacks.probe.when", "end"),
    ("name_of_something", "else"),
]


def with_value(key: str, value: object) -> dict[str, Any]:
    config = json.loads(json.dumps(CONFIG))
    *above, last = key.split(".")
    node = config
    for part in above:
        node = node.setdefault(part, {})
    node[last] = value
    return dict(config)


@pytest.mark.parametrize(("key", "value"), RESOURCES)
def test_another_resource_is_the_same_run(tmp_path: Path, key: str, value: object) -> None:
    run = RunDirectory(tmp_path)
    run.begin(CONFIG)
    run.begin(with_value(key, value))
    RunSummary("done").write(tmp_path)
    assert run.finished(with_value(key, value)) is not None
    assert not matters(key)
    assert run_name("digits", [f"{key}={value}"]) == "digits"


@pytest.mark.parametrize(("key", "value"), CHANGES)
def test_another_value_of_anything_else_is_refused(tmp_path: Path, key: str, value: object) -> None:
    run = RunDirectory(tmp_path)
    run.begin(CONFIG)
    with pytest.raises(RunDirectoryError, match=rf"another configuration:\n  (?s:{key}: .* -> .*rerun=all)"):
        run.begin(with_value(key, value))
    assert matters(key)
    assert run_name("digits", [f"{key}={value}"]) != "digits"


@pytest.mark.parametrize(("key", "value"), [case for case in RESOURCES if case[0].startswith(("probe", "data"))])
def test_the_ledger_goes_on_with_another_resource(tmp_path: Path, key: str, value: object) -> None:
    entry = Entry("a.ckpt", "123", CONFIG)
    Ledger(tmp_path).write("final", entry)
    again = replace(entry, config=with_value(key, value))
    assert not Ledger(tmp_path).is_complete("final", again, has_results=True)
    Ledger(tmp_path).write("final", replace(entry, complete=True))
    assert Ledger(tmp_path).is_complete("final", again, has_results=True)
    with pytest.raises(OtherResultsError, match=r"they were found with seed=0, now 1\."):
        Ledger(tmp_path).is_complete("final", replace(entry, config=with_value("seed", 1)), has_results=True)


def test_a_directory_that_an_earlier_version_wrote_is_the_same_run(tmp_path: Path) -> None:
    """It holds the keys that do not matter, and lacks those that have come since and are null."""
    before = {
        "name": "digits", "seed": 0, "data.num_workers": 0, "callbacks.guard.path": "RUN/last.ckpt",
        "callbacks.guard.every_n_seconds": 300.0, "callbacks.probe.protocol.max_memory": None, "probe.max_memory": None,
        "probe.l2": [0.1],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(before))
    now = {
        "name": "digits", "seed": 0, "data": {"num_workers": 2}, "probe": {"l2": [0.1], "patience": None},
        "callbacks": {"guard": {"path": str(tmp_path / "last.ckpt"), "every_n_seconds": 9.0}},
    }  # fmt: skip
    assert RunDirectory(tmp_path).differences(now) == []
    assert RunDirectory(tmp_path).differences(now | {"seed": 1}) == ["seed: 0 -> 1"]


def test_a_run_from_before_there_was_a_choice_to_train_and_to_test_did_both(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"seed": 0}))
    now = {"seed": 0, "train": True, "test": True, "ckpt_path": None, "trust_checkpoint": False, "tags": ["a"]}
    now |= {"extras": {"print_config": True}, "callbacks": {"learning_rate_monitor": {"logging_interval": "step"}}}
    assert RunDirectory(tmp_path).differences(now) == []
    assert RunDirectory(tmp_path).differences(now | {"test": False}) == ["test: True -> False"]
    assert RunDirectory(tmp_path).differences(now | {"ckpt_path": "a.ckpt"}) == ["ckpt_path: None -> a.ckpt"]
    stops = {"callbacks": {"early_stopping": {"patience": 3}}}
    assert RunDirectory(tmp_path).differences(now | stops) == ["callbacks.early_stopping.patience: None -> 3"]


def test_what_an_identity_is_made_of(tmp_path: Path) -> None:
    found = identity({"a": {"b": (1, 2), "c": f"{tmp_path}/x"}, "logger": {"csv": {}}, "probe": {}}, tmp_path)
    assert found == {"a.b": [1, 2], "a.c": "RUN/x", "probe": {}}
    assert differing({"a": 1}, {"b": None, "a": 2}) == {"a": (1, 2)}
    assert len(set(NO_PART)) == len(NO_PART)


def test_the_order_of_test_sets_counts_and_runs_without_it_go_on() -> None:
    """The first one is the primary one, whose errors are those of the results."""
    one, other = (identity({"loaders": {"test": dict.fromkeys(names, 0)}}) for names in (("a", "b"), ("b", "a")))
    assert differing(one, other) == {"loaders.test in order": (["a", "b"], ["b", "a"])}
    before = {key: value for key, value in one.items() if "order" not in key}
    assert differing(before, one) == {}
    assert differing(before, identity({"loaders": {"test": {"a": 0, "b": 1}}})) == {"loaders.test.b": (0, 1)}
