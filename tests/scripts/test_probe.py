"""`scripts/probe.py`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from command import ROOT, run
from layerprobe.config import register

QUICK = ("probe.l2=[1e-2]", "reducer=channel_mean", "logger=none", "hydra.run.dir=run")


def test_a_network_without_a_checkpoint_is_probed_as_it_is_built(tmp_path: Path) -> None:
    run("probe.py", "model=digits_convnet", "data=digits", *QUICK, cwd=tmp_path)
    results = pd.read_parquet(tmp_path / "run" / "probes" / "results.parquet")
    assert set(results["checkpoint"]) == {"pretrained"}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"
    assert (tmp_path / "run" / "figures" / "depth_curve.png").exists()


@pytest.mark.parametrize("model", [path.stem for path in sorted((ROOT / "conf" / "model").glob("*.yaml"))])
def test_every_model_composes_for_probing_too(model: str) -> None:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        named = ["model.name=NAME"] if model.startswith("hf_") else []
        cfg = compose("probe", [f"model={model}", "data=digits", "run_dir=run", *named])
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize("experiment", [path.stem for path in sorted((ROOT / "conf" / "experiment").glob("*.yaml"))])
def test_every_experiment_composes_for_probing_too(experiment: str) -> None:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        compose("probe", [f"experiment={experiment}"])
