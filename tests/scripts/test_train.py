"""The commands of the README, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from helpers import wandb_log
from helpers.command import ROOT, run
from layerprobe.config import register

PROBES = ("probe.l2=[1e-3,1e-1]", "reducer=channel_mean")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One short run of the default experiment, with the mean of each channel as a feature."""
    cwd = tmp_path_factory.mktemp("digits")
    options = ["trainer.max_epochs=2", "callbacks.probe.every_n_epochs=1", *PROBES, "hydra.run.dir=run"]
    result = run("train.py", *options, cwd=cwd)
    return cwd / "run", result.stdout


def test_results_of_every_layer_and_checkpoint(digits: tuple[Path, str]) -> None:
    directory, _ = digits
    results = pd.read_parquet(directory / "probes" / "results.parquet")
    assert results["checkpoint"].unique().tolist() == ["initial", "epoch_1", "final"]
    assert results.groupby("checkpoint", sort=False)["depth"].apply(list).map(lambda d: d == list(range(len(d)))).all()
    assert (results["status"] == "converged").all()
    assert (results["n_test"] == 720).all()
    path = pd.read_parquet(directory / "probes" / "path.parquet")
    assert len(path) == 2 * len(results)
    assert path["selected"].sum() == len(results)
    assert (directory / "probes" / "results.csv").exists()
    assert len(list((directory / "probes" / "heads").rglob("*.safetensors"))) == len(results)


def test_figures_and_the_table(digits: tuple[Path, str]) -> None:
    directory, output = digits
    for name in ("depth_curve", "heat_map", "path_curve"):
        assert (directory / "figures" / f"{name}.png").stat().st_size > 5000
        assert (directory / "figures" / f"{name}.svg").exists()
    assert "conv1_preact" in output
    assert "\x1b" not in output, "colours in a pipe"
    assert "it/s" not in output, "a progress bar in a pipe"


def test_checkpoints_describe_themselves(digits: tuple[Path, str]) -> None:
    directory, _ = digits
    content = torch.load(directory / "checkpoints" / "final.ckpt", weights_only=True)
    assert content["layerprobe"]["config"]["model"]["network"]["_target_"].endswith("DigitsConvNet")
    assert content["global_step"] == content["layerprobe"]["checkpoint"]["step"] > 0


@pytest.mark.slow
def test_a_checkpoint_is_probed_again_by_the_script_with_the_same_result(digits: tuple[Path, str]) -> None:
    directory, _ = digits
    words = ("checkpoint=run/checkpoints/*.ckpt", *PROBES, "logger=none", "report.figures=false")
    run("probe.py", *words, "hydra.run.dir=again", cwd=directory.parent)
    first = pd.read_parquet(directory / "probes" / "results.parquet")
    again = pd.read_parquet(directory.parent / "again" / "probes" / "results.parquet")
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), again.drop(columns="seconds"), rtol=1e-5, atol=1e-7)


def test_the_run_ends_with_a_summary(digits: tuple[Path, str]) -> None:
    summary = json.loads((digits[0] / "run.json").read_text())
    assert summary["status"] == "done"
    assert summary["best_layer"]
    assert 0 <= summary["metrics"]["probe/best_layer_test_error"] < 0.2


@pytest.mark.parametrize(
    ("override", "message"),
    [("sead=3", "sead"), ("seed=x", "seed"), ("trainer.max_epoch=3", "max_epoch"), ("model=digits_convnett", "digits")],
)
def test_a_mistyped_override_is_named(override: str, message: str) -> None:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), pytest.raises(HydraException) as error:
        compose("train", [override])
    assert message in str(error.value) + str(error.value.__cause__)


def test_a_mistake_on_the_command_line_is_one_message(tmp_path: Path) -> None:
    result = run("train.py", "sead=3", cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "There is no 'sead'. Did you mean seed?" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("run.json"))


def test_help_names_the_groups_and_examples(tmp_path: Path) -> None:
    result = run("train.py", "--help", cwd=tmp_path)
    assert "experiment=mnist data.root=DIR" in result.stdout
    assert "\nexperiment: activation_depth, alain" in result.stdout
    assert "concept_depth" not in result.stdout, "which is an experiment of probe.py"
    assert "\nmodel/activation: gelu, " in result.stdout
    assert "hydra/" not in result.stdout and "\nbenchmark" not in result.stdout


def test_missing_data_says_what_to_do_and_marks_the_run(tmp_path: Path) -> None:
    overrides = ["experiment=mnist", "data.root=nowhere", "hydra.run.dir=run"]
    result = run("train.py", *overrides, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "data.download=true" in result.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    (log,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert wandb_log.read_finished(log).exit_code == 1, "a failed run is shown as finished"


@pytest.mark.slow
def test_xor_sweep_ends_with_a_table_of_success_by_width(tmp_path: Path) -> None:
    result = run(
        "train.py", "-m", "experiment=xor_mlp", "model.width=2,8", "seed=range(2)", "data.repeats=300", "logger=none",
        "report.figures=false", "hydra.sweep.dir=sweep", cwd=tmp_path,
    )  # fmt: skip
    assert len(list((tmp_path / "sweep").glob("*/run.json"))) == 4
    assert "model.width=2" in result.stdout
    assert "test/solved" in result.stdout


@pytest.mark.slow
def test_without_wandb_installed(tmp_path: Path) -> None:
    """`import wandb` fails for this run, as it does where it is not installed."""
    (tmp_path / "wandb.py").write_text("raise ModuleNotFoundError('No module named wandb', name='wandb')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)}
    overrides = ["experiment=xor_mlp", "data.repeats=10", "probe.l2=[1e-3]", "logger=none", "hydra.run.dir=run"]
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *overrides]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "probes" / "results.parquet").exists()
