"""Small files of a run's directory that are damaged: each is read from its copy, or named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerprobe.files.atomic import atomic, remove_stray
from layerprobe.results.checkpoint_ledger import Entry, Ledger, OtherResultsError
from layerprobe.results.run_directory import RunDirectory, RunDirectoryError
from layerprobe.results.run_summary import RunSummary

CONFIG = {"seed": 3, "model": {"width": 8}}
SUMMARY = RunSummary("done", ["seed=3"], {"test/error": 0.25}, "fc", objective=0.5)
ENTRY = Entry("a.ckpt", "hash", CONFIG, complete=True)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.begin(CONFIG)
    SUMMARY.write(run.path)
    Ledger(run.path / "probes").write("a", ENTRY)
    return run


def damages(content: bytes) -> dict[str, bytes]:
    return {"empty": b"", "half": content[: len(content) // 2], "garbage": b"\xff\x00{]" * 9, "other": b"[1]"}


@pytest.mark.parametrize("how", damages(b""))
@pytest.mark.parametrize("name", ["run.json", "config.json", "run_id", "probes/checkpoints.json"])
def test_one_damaged_file_costs_nothing(run: RunDirectory, name: str, how: str, caplog) -> None:
    first, file = run.id, run.path / name
    content = file.read_bytes()
    file.write_bytes(damages(content)[how])
    assert run.summary == SUMMARY
    with run.claimed():
        assert run.id == first
        assert run.finished(CONFIG) == SUMMARY
        assert run.differences({**CONFIG, "seed": 4}) == ["seed: 3 -> 4"]
        assert Ledger(run.path / "probes").is_complete("a", ENTRY, has_results=True)
    assert file.read_bytes() == content
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{file} was damaged; it has been restored from its copy."]


def damage_both(run: RunDirectory, name: str) -> Path:
    file = run.path / name
    for path in (file, file.parent / ".copies" / file.name):
        path.write_bytes(b"")
    return file


def test_a_summary_that_is_lost_is_said_and_the_run_goes_on(run: RunDirectory, caplog) -> None:
    file = damage_both(run, "run.json")
    assert run.summary.status == "unreadable"
    assert run.summary.error == f"{file} is damaged (it is empty)."
    with run.claimed():
        assert run.finished(CONFIG) is None
        run.begin(CONFIG)
    assert str(file) in caplog.text
    assert run.summary is None


def test_a_configuration_that_is_lost_is_the_users_to_decide_about(run: RunDirectory) -> None:
    file = damage_both(run, "config.json")
    with pytest.raises(RunDirectoryError, match=r"config.json is damaged \(it is empty\).*mv -- .*rerun=all"):
        run.begin(CONFIG)
    file.rename(f"{file}.damaged")
    run.begin(CONFIG)
    assert run.differences({**CONFIG, "seed": 4}) == ["seed: 3 -> 4"]


def test_a_ledger_that_is_lost_is_the_users_to_decide_about(run: RunDirectory) -> None:
    damage_both(run, "probes/checkpoints.json")
    with pytest.raises(OtherResultsError, match=r"checkpoints.json is damaged .*the results are intact.*force=true"):
        Ledger(run.path / "probes")


def test_an_id_that_is_lost_is_that_of_the_logs(run: RunDirectory) -> None:
    first = run.id
    for log in (f"offline-run-20260101_000000-{first}", f"run-20260102_000000-{first}-1"):  # -1: the second of a second
        (run.path / "wandb" / log).mkdir(parents=True)
        (run.path / "wandb" / log / f"run-{first}.wandb").touch()
    damage_both(run, "run_id")
    assert run.id == first
    assert json.loads((run.path / "config.json").read_text()) == {"seed": 3, "model.width": 8}


def test_starting_anew_takes_the_copies_along(run: RunDirectory) -> None:
    first = run.id
    run.begin(CONFIG, "all")
    assert (run.path / "previous" / "0" / ".copies" / "run.json").exists()
    assert run.summary is None
    assert run.id != first


def test_temporary_files_of_any_kind_are_cleared_but_not_those_of_a_run_below(run: RunDirectory) -> None:
    inner = RunDirectory(run.path / "inner")
    strays = []
    for folder in (run.path, run.path / "figures", run.path / "checkpoints", inner.path):
        with atomic(folder / "kept.png") as temporary:
            temporary.write_bytes(b"1")
        temporary.write_bytes(b"half")
        strays.append(temporary)
    strays.insert(0, run.path / ".progress.json.123.tmp")
    strays[0].write_bytes(b"half")
    (run.path / ".mine.tmp").touch()
    with inner.claimed():
        temporary.write_bytes(b"half")
        remove_stray(run.path)
        assert [stray.exists() for stray in strays] == [False] * 4 + [True]
    assert (run.path / ".mine.tmp").exists()
    with inner.claimed():
        assert not strays[-1].exists()
    assert len(list(run.path.rglob("kept.png"))) == 4
