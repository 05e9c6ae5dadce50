"""A sweep's record: found again wherever the sweep lies now."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from layerprobe.files.errors import DamagedFileError
from layerprobe.results.run_summary import RunSummary
from layerprobe.results.sweep_record import SweepRecord


@pytest.mark.parametrize("earlier", [False, True])
def test_a_sweep_that_is_moved_takes_its_jobs_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    project = tmp_path / "a" / "project"
    sweep = project / "multirun" / "x"
    sweep.mkdir(parents=True)
    monkeypatch.chdir(project)
    record = SweepRecord(sweep)
    record.begin(["train.py", "-m", "seed=0,1", f"hydra.sweep.dir={sweep}", "rerun=all"])
    record.add({"0": {"directory": str(sweep / "s" / "0")}, "1": {"directory": str(tmp_path / "out" / "1")}})
    if earlier:  # what earlier versions wrote
        jobs, cwd = record.jobs, str(project)
        words = [*record.command, f"hydra.sweep.dir={sweep}"]
        (sweep / "sweep.json").write_text(json.dumps({"command": words, "cwd": cwd, "jobs": jobs}))
    moved = Path(shutil.move(sweep, tmp_path / "b"))
    found = SweepRecord.read(moved)
    assert found.command == [str(project / "train.py"), "-m", "seed=0,1"]
    assert [job["directory"] for job in found.jobs.values()] == [str(moved / "s" / "0"), str(tmp_path / "out" / "1")]
    assert found.cwd == str(project), "what is relative in the command was relative to it"
    found.write()
    again = Path(shutil.move(moved, tmp_path / "c"))
    assert SweepRecord.read(again).jobs["0"]["directory"] == str(again / "s" / "0")


def test_a_checkout_that_is_moved_as_a_whole_is_where_relative_paths_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "a" / "multirun" / "x"
    sweep.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    SweepRecord(sweep).begin(["train.py"])
    monkeypatch.chdir(tmp_path)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert SweepRecord.read(tmp_path / "b" / "multirun" / "x").cwd == str(tmp_path / "b")


def test_jobs_are_found_below_folders_but_not_what_they_set_aside(tmp_path: Path) -> None:
    for name in ("s/0", "s/10", "s/2", "t", "s/0/previous/0"):
        RunSummary("done").write(tmp_path / name)
    assert [path.name for path in SweepRecord(tmp_path).folders()] == ["0", "2", "t", "10"]


def test_a_damaged_record_names_its_file(tmp_path: Path) -> None:
    SweepRecord(tmp_path, ["train.py"]).write()
    (tmp_path / "sweep.json").write_text("{")
    assert SweepRecord.read(tmp_path).command == ["train.py"], "from its copy"
    for file in tmp_path.rglob("sweep.json"):
        file.write_text("{}")
    with pytest.raises(DamagedFileError, match=r"sweep\.json"):
        SweepRecord.read(tmp_path)
