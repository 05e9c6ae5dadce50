"""Directories of runs and sweeps: new ones for new starts, under names that a file system takes."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from helpers.command import call
from layerprobe.config import as_typed, register
from layerprobe.jobs.output_directories import Directories, new_directory, short_path
from layerprobe.program import CONF
from layerprobe.quoting import override

SHORT = ("logger=none", "trainer.limit_train_batches=1", "callbacks=none")


def test_starts_within_one_second_get_a_directory_each(tmp_path: Path) -> None:
    wanted = str(tmp_path / "outputs" / "2026-01-02_03-04-05")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        made = pool.map(new_directory, [wanted] * 40, chunksize=1)
    assert len(set(made)) == 40
    assert wanted in made
    later = new_directory(str(tmp_path / "outputs" / "2026-01-02_03-04-06"))
    assert sorted([later, *made])[-1] == later


def test_long_names_are_cut_in_a_way_that_tells_them_apart() -> None:
    long = "model.width=" + "ü" * 200
    cut, other = short_path(f"a/{long}/b"), short_path(f"a/{long}x/b")
    assert cut == short_path(f"a/{long}/b") != other
    assert [len(name.encode()) <= 255 for name in cut.split("/")] == [True] * 3
    assert cut.startswith("a/model.width=üü") and cut.endswith("/b")
    assert short_path("a/seed=3/b") == "a/seed=3/b"


def test_a_sweep_of_before_goes_on_in_folders_that_are_named_by_former_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    register()
    words = as_typed(["logger=none", "solver.logistic.tolerance=0.01", "seed=1", "hydra.sweep.dir=sweep"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        named = "hydra.sweep.subdir=s/${hydra.job.override_dirname}"
        config = compose("train", [*words, named], return_hydra_config=True)
        Directories().on_multirun_start(config)
        named = OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)[-1]
        job = compose("train", [*words, named], return_hydra_config=True)
    assert job.hydra.sweep.subdir == "s/logger=none,probe.solvers.logistic.tolerance=0.01,seed=1"
    before = "s/logger=none,seed=1,solver.logistic.tolerance=0.01"
    (tmp_path / "sweep" / before).mkdir(parents=True)
    assert job.hydra.sweep.subdir == before


@pytest.mark.slow
def test_two_runs_that_are_named_alike_by_the_time_have_two(tmp_path: Path) -> None:
    for _ in range(2):
        code, output = call("train.py", "experiment=xor_linear", *SHORT, "hydra.run.dir=o/${now:%Y}", cwd=tmp_path)
        assert code == 0, output
    first, second = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert second == f"{first}-02"
    for _ in range(2):
        code, output = call("train.py", "experiment=xor_linear", *SHORT, "hydra.run.dir=o/mine", cwd=tmp_path)
    assert code == 0 and "Done before" in output


def test_a_reference_in_a_parent_folder_is_refused(tmp_path: Path) -> None:
    (folder := tmp_path / "a${b}").mkdir()
    code, output = call("train.py", "experiment=xor_linear", *SHORT, cwd=folder)
    assert code != 0
    assert "hydra.run.dir=DIR" in output and "Traceback" not in output


@pytest.mark.slow
def test_a_sweep_in_a_hostile_folder_goes_on_where_it_is_moved_to(tmp_path: Path) -> None:
    (folder := tmp_path / "mü=a,b (c) $d{e} 'x'").mkdir()
    long = "a" * 130
    code, output = call(
        "train.py", "-m", "experiment=xor_linear,xor_mlp", f"name={long}", "seed=0,1", *SHORT,
        "hydra.sweep.subdir=s/${hydra.job.override_dirname}", cwd=folder,
    )  # fmt: skip
    assert code == 0, output
    (sweep,) = (folder / "multirun").glob("*/*")
    jobs = sorted(file.parent for file in sweep.glob("s/*/run.json"))
    assert len(jobs) == 4
    (jobs[1] / "run.json").unlink()  # as if killed
    (elsewhere := tmp_path / "else=where").mkdir()
    moved = Path(shutil.move(sweep, elsewhere / "moved"))

    code, output = call("sweep.py", override("continue", moved), cwd=tmp_path)
    assert code == 0, output
    assert output.count("Done before") == 3
    assert not sweep.exists()
    assert sorted(file.parent.name for file in moved.glob("s/*/run.json")) == [job.name for job in jobs]
    code, output = call("sweep.py", override("status", moved), cwd=tmp_path)
    assert "4 done" in output
