"""The life of a job: where it was stopped, and the name that it has in the dashboard."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from helpers import made_runs
from layerprobe.config import as_typed, register
from layerprobe.jobs.entry_point import run_script
from layerprobe.jobs.job_states import job_states
from layerprobe.jobs.lifecycle import times_stopped_at
from layerprobe.jobs.sweep_callbacks import SweepCurves, SweepTable
from layerprobe.report.run_comparison import compare
from layerprobe.results.run_directory import RunDirectory
from layerprobe.results.run_summary import RunSummary
from layerprobe.results.sweep_record import SweepRecord
from layerprobe.results.sweep_results import sweep_jobs
from layerprobe.training.signals import Stopped


def test_stops_without_progress_are_counted(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)

    def stop(where: str) -> int:
        return times_stopped_at(run, Stopped(signal.SIGUSR2, None, where))

    assert [stop("at step 3"), stop("at step 3"), stop("at step 3")] == [1, 2, 3]
    assert stop("at step 4") == 1
    assert stop("at step 4") == 2
    part = tmp_path / "probes" / "parts" / "final" / "conv1.parquet"
    part.parent.mkdir(parents=True)
    part.touch()
    assert stop("at step 4") == 1, "a layer has been probed since"
    assert times_stopped_at(run, Stopped(signal.SIGTERM, None, "at step 4")) == 2
    (tmp_path / "stops.json").write_text("{")
    assert stop("at step 4") == 1


def test_a_run_of_a_sweep_agent_has_the_id_that_the_agent_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "ab12cd34")
    assert RunDirectory(tmp_path / "alone").id != "ab12cd34", "jobs of a sweep would share it"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sw33psw3")
    assert RunDirectory(tmp_path / "agent").id == "ab12cd34"
    monkeypatch.setenv("WANDB_RUN_ID", "ef56ab78")
    assert RunDirectory(tmp_path / "agent").id == "ab12cd34", "a run that goes on keeps its id"


def test_a_job_that_has_not_begun_is_told_from_one_whose_process_is_gone(tmp_path: Path) -> None:
    record = SweepRecord(tmp_path, ["train.py"], str(tmp_path))
    record.add({name: {"overrides": [], "directory": str(tmp_path / name)} for name in "01"})
    RunDirectory(tmp_path / "0").begin({"seed": 0})
    with RunDirectory(tmp_path / "1").claimed():
        pass
    assert [(job.state, job.where) for job in job_states(record)] == [
        ("lost", "it has not begun"),
        ("lost", "its process is gone"),
    ]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": 1}'])
def test_one_damaged_file_leaves_the_other_jobs_of_a_sweep_to_be_seen(tmp_path: Path, content: str) -> None:
    record = SweepRecord(tmp_path, ["train.py"], str(tmp_path))
    for number in (0, 1):
        directory = tmp_path / "s" / str(number)
        directory.mkdir(parents=True)
        (directory / "run.json").write_text(content)
        record.add({str(number): {"overrides": [f"seed={number}"], "directory": str(directory)}})
    RunSummary("done", ["seed=0"], {"m": 1.0}, "fc").write(tmp_path / "s" / "0")
    states = job_states(record)
    assert [state.state for state in states] == ["done", "unreadable"]
    assert str(tmp_path / "s" / "1" / "run.json") in states[1].where
    assert states[1].name == "1: seed=1"
    frame = sweep_jobs(record)
    assert frame["status"].tolist() == ["done", "unreadable"]
    assert frame["seed"].tolist() == ["0", "1"]
    assert RunDirectory(tmp_path / "s" / "1").finished({}) is None, "so that `continue` does it again"


def test_a_sweep_that_goes_on_across_versions_has_one_column_for_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = SweepRecord(tmp_path, ["train.py"], str(tmp_path))
    keys = [("solver.ridge.largest", "solver"), ("probe.solvers.ridge.largest", "solver")]
    for number, (key, group) in enumerate(keys):
        made_runs.write_run(tmp_path / str(number), overrides={key: str(number), group: "x", "seed": "0"})
        record.add({str(number): {"overrides": [f"{key}={number}"], "directory": str(tmp_path / str(number))}})
    frame = sweep_jobs(record)
    assert frame["probe.solvers.ridge.largest"].tolist() == ["0", "1"]
    assert frame["solver"].tolist() == ["x", "x"], "a choice of a group"
    assert "solver.ridge.largest" not in frame
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    SweepTable(over="solver.ridge.largest").on_multirun_end(config)
    assert "Meanoverprobe.solvers.ridge.largest" in "".join(capsys.readouterr().out.split())
    SweepCurves(row="solver", column="seed", line="solver.ridge.largest").on_multirun_end(config)
    assert (tmp_path / "depth_curves.png").exists()
    for where in ("solver.ridge.largest == '1'", "`solver.ridge.largest` == '1'"):
        assert [run.directory.name for run in compare([tmp_path], where).runs] == ["1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-m solver=logistic,ridge solver.ridge.largest=9", "Write an experiment for each solver of the sweep"),
        ("-m targets=pair,lookup targets.values=[1]", "For each targets of the sweep: ++probe.targets.values=…"),
        ("-m solver=[logistic,ridge] solver.ridge.larget=9", "Did you mean largest"),
    ],
)
def test_a_value_for_one_choice_of_a_sweep(
    words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register()
    given = as_typed(words.split())
    monkeypatch.setattr("sys.argv", ["train.py", *given])

    def main() -> None:
        raise ConfigCompositionException(f"Could not override '{given[-1].partition('=')[0]}'.")

    with pytest.raises(SystemExit):
        run_script(main)
    assert said in capsys.readouterr().err


def test_without_a_home_or_a_known_user_libraries_get_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "/somebody")
    register()
    assert Path.home() == Path("/somebody"), "a home that is known is left alone"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    register()
    assert Path.home().parent == tmp_path and Path.home().is_dir()
