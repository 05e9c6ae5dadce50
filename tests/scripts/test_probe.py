"""`scripts/probe.py`, as a user runs it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import torchvision
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from helpers.command import ROOT, run, start
from helpers.foreign import ForeignNet
from helpers.slow_fits import WORDS as SLOW_FITS
from helpers.slow_fits import fits
from helpers.slurm_cluster import wait_until
from layerprobe.config import register
from layerprobe.models.digits_convnet import DigitsConvNet

QUICK = ("probe.l2=[1e-2]", "reducer=channel_mean", "logger=none", "hydra.run.dir=run")


def test_a_network_without_a_checkpoint_is_probed_as_it_is_built(tmp_path: Path) -> None:
    run("probe.py", "model=digits_convnet", "data=digits", *QUICK, cwd=tmp_path)
    results = pd.read_parquet(tmp_path / "run" / "probes" / "results.parquet")
    assert set(results["checkpoint"]) == {"untrained"}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"
    assert (tmp_path / "run" / "figures" / "depth_curve.png").exists()


@pytest.mark.parametrize("model", [path.stem for path in sorted((ROOT / "conf" / "model").glob("*.yaml"))])
def test_every_model_composes_for_probing_too(model: str) -> None:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("probe", [f"model={model}", "data=digits", "run_dir=run", "logger=none"])
    OmegaConf.to_container(cfg, resolve=True)


EXPERIMENTS = sorted((path.parent.name, path.stem) for path in (ROOT / "conf" / "experiment").glob("*/*.yaml"))


@pytest.mark.parametrize(("script", "experiment"), EXPERIMENTS)
def test_an_experiment_composes_for_its_script_alone(script: str, experiment: str) -> None:
    register(script)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose(script, [f"experiment={experiment}"], return_hydra_config=True)
    assert composed.hydra.runtime.choices.experiment == experiment
    register(other := {"train": "probe", "probe": "train"}[script])
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), pytest.raises(HydraException):
        compose(other, [f"experiment={experiment}"])


def results(run_dir: Path) -> pd.DataFrame:
    return pd.read_parquet(run_dir / "probes" / "results.parquet")


@pytest.mark.slow
def test_a_folder_of_anyone_s_weights_some_of_them_no_good(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    for step in (10, 9):
        torch.save(DigitsConvNet(10, 0.5).state_dict(), tmp_path / "w" / f"step_{step}.pt")
    whole = (tmp_path / "w" / "step_9.pt").read_bytes()
    (tmp_path / "w" / "cut.pt").write_bytes(whole[: len(whole) // 2])
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "w" / "step_11.pth")
    arguments = ("checkpoint=w", "model=digits_convnet", "data=digits", "report.figures=false", *QUICK)
    first = run("probe.py", *arguments, cwd=tmp_path, check=False)
    assert first.returncode == 1
    assert "cut.pt cannot be read as a checkpoint; is it cut short" in first.stdout
    assert "step_11 was not probed: The checkpoint's weights are not those of Classifier" in first.stdout
    assert "2 of 4 checkpoints were not probed: step_11, cut" in first.stderr
    assert "Traceback" not in first.stdout + first.stderr
    found = results(tmp_path / "run")
    assert found["checkpoint"].unique().tolist() == ["step_9", "step_10"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"

    for name in ("cut.pt", "step_11.pth"):
        (tmp_path / "w" / name).unlink()
    again = run("probe.py", *arguments, cwd=tmp_path)
    assert again.stdout.count("has been probed already") == 2
    pd.testing.assert_frame_equal(results(tmp_path / "run"), found)
    other = run("probe.py", *arguments, "probe.l2=[1e-1]", cwd=tmp_path, check=False)
    assert "probe.l2=[0.01], now [0.1]" in other.stdout
    pd.testing.assert_frame_equal(results(tmp_path / "run"), found)
    run("probe.py", *arguments, "probe.l2=[1e-1]", "force=true", cwd=tmp_path)
    assert set(results(tmp_path / "run")["l2"]) == {0.1}


@pytest.mark.slow
def test_an_interrupted_run_goes_on_layer_by_layer(tmp_path: Path) -> None:
    torch.save(DigitsConvNet(10, 0.5).state_dict(), tmp_path / "x.pt")
    solver = "solver.logistic._target_=helpers.interrupted.StopsOnce"
    rest = ("~solver.logistic.max_iterations", "~solver.logistic.memory")
    arguments = ("checkpoint=x.pt", "model=digits_convnet", "data=digits", *QUICK, solver, *rest)
    assert run("probe.py", *arguments, cwd=tmp_path, check=False, path=ROOT / "tests").returncode != 0
    begun = results(tmp_path / "run")
    assert len(begun) == 3
    run("probe.py", *arguments, cwd=tmp_path, path=ROOT / "tests")
    found = results(tmp_path / "run")
    assert len(found) == 10
    pd.testing.assert_frame_equal(found.head(3), begun)  # the seconds too: these were not fitted again


@pytest.mark.slow
def test_a_terminated_call_keeps_what_it_had_and_goes_on(tmp_path: Path) -> None:
    torch.save(DigitsConvNet(10, 0.5).state_dict(), tmp_path / "x.pt")
    arguments = ("checkpoint=x.pt", "model=digits_convnet", "data=digits", *QUICK, *SLOW_FITS)
    process = start("probe.py", *arguments, cwd=tmp_path, path=ROOT / "tests")
    wait_until(lambda: process.poll() is not None or fits(tmp_path) >= 3, "three fits")
    second = run("probe.py", *arguments, cwd=tmp_path, check=False, path=ROOT / "tests")
    assert second.returncode == 1
    assert "Another process is at work" in second.stderr
    process.send_signal(signal.SIGTERM)
    (tmp_path / "go").touch()
    output = "".join(process.communicate(timeout=120))
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "stopped by SIGTERM before layer" in output
    assert "To go on: uv run scripts/probe.py checkpoint=x.pt" in output
    assert "Traceback" not in output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    assert "of 10" in json.loads((tmp_path / "run" / "progress.json").read_text())["layer"]
    begun, made = results(tmp_path / "run"), fits(tmp_path)
    assert 3 <= len(begun) == made < 10
    assert len(pd.read_parquet(tmp_path / "run" / "probes" / "path.parquet")) == made
    run("probe.py", *arguments, cwd=tmp_path, path=ROOT / "tests")
    found = results(tmp_path / "run")
    assert (len(found), fits(tmp_path)) == (10, 10)
    pd.testing.assert_frame_equal(found.head(made), begun)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"


@pytest.mark.slow(seconds=40)
def test_shares_of_a_trained_run_s_checkpoints_are_the_whole(tmp_path: Path) -> None:
    """Four checkpoints of a small run: probed by one job, and by five, one of which has nothing to do.

    Three of the five are jobs of one process, and the other two have a process each, at the same time.
    """
    arguments = (
        "probe.layers=[input,conv1_preact,fc*]", "probe.l2=[1e-2,1e-1]", "reducer=channel_mean", "logger=none",
        "report.figures=false",
    )  # fmt: skip
    run(
        "train.py", "trainer.max_epochs=1", "callbacks.probe.steps=[5,10]", "callbacks.probe.when=end", *arguments,
        "hydra.run.dir=trained", cwd=tmp_path,
    )  # fmt: skip
    which = "checkpoint='trained/checkpoints/*.ckpt'"
    run("probe.py", which, *arguments, "hydra.run.dir=whole", cwd=tmp_path)
    sweep = ("-m", which, *arguments, "hydra.sweep.dir=shares")
    run("probe.py", *sweep, "shard=1/5,2/5,3/5", cwd=tmp_path)
    box = ("hydra/launcher=gpu_box", "hydra.launcher.devices=[]", "hydra.launcher.n_jobs=2")
    table = run("probe.py", *sweep, "shard=1/5,2/5,3/5,4/5,5/5", *box, cwd=tmp_path).stdout
    assert "5 jobs, 3 done before; 2 at a time" in table
    assert table.count(" done ") >= 5
    assert "16 results" in run("sweep.py", "merge=shares", cwd=tmp_path).stdout
    for name in ("results", "path", "correct"):
        merged, whole = (
            pd.read_parquet(tmp_path / folder / "probes" / f"{name}.parquet") for folder in ("shares", "whole")
        )
        if name == "correct":
            merged["correct"], whole["correct"] = merged["correct"].map(list), whole["correct"].map(list)
        seconds = [column for column in merged.columns if "seconds" in column]
        pd.testing.assert_frame_equal(merged.drop(columns=seconds), whole.drop(columns=seconds))
    assert results(tmp_path / "whole")["checkpoint"].unique().tolist() == ["initial", "step_5", "step_10", "final"]


def test_a_sweep_without_a_job_says_so(tmp_path: Path) -> None:
    arguments = ("-m", "checkpoint=glob(*)", "model=digits_convnet", "data=digits", "hydra.sweep.dir=sweep")
    result = run("probe.py", *arguments, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "This sweep has no job" in result.stderr
    assert "'checkpoint=\"RUN/checkpoints/*.ckpt\"'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_lightning_module_of_others_by_its_target(tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    module = ForeignNet(width=24, activation="tanh")
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "theirs.ckpt")
    result = run(
        "probe.py", "checkpoint=theirs.ckpt", "+model._target_=helpers.foreign.ForeignNet",
        "+data._target_=helpers.foreign.RecordsDataModule", "inputs=items", "inputs.paths={pixels: pixels}",
        "loaders.test=1",
        "targets=item", "targets.path=meta.ink", "task=regression", "solver=[ridge]", "trainer.precision=bf16-mixed",
        *QUICK, cwd=tmp_path, path=ROOT / "tests",
    )  # fmt: skip
    assert "There are" not in result.stderr
    found = results(tmp_path / "run").set_index("layer")
    assert (found["n_test"] == 500).all()
    assert set(found["task"]) == {"regression"}
    assert found.loc["encoder.2", "n_features"] == 24
    assert found.loc["encoder.1", "test_r2"] > 0.6


def test_torchvision_by_name(tmp_path: Path) -> None:
    torch.save(torchvision.models.get_model("resnet18").state_dict(), tmp_path / "published.pth")
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("probe", ["model=torchvision", "model.name=resnet18", "model.weights=DEFAULT", "data=digits"])
    assert (cfg.model.name, cfg.model.weights) == ("resnet18", "DEFAULT")
    assert torchvision.models.get_weight("ResNet18_Weights.DEFAULT") is not None
    result = run(
        "probe.py", "checkpoint=published.pth", "model=torchvision", "model.name=resnet50", "data=digits",
        *QUICK, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "The checkpoint's weights are not those of ResNet" in result.stderr
