"""What users of a Hydra and Lightning template expect: callbacks by name, debugging, searches, tags."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import hydra
import pytest
import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from helpers.command import call
from layerprobe.config import register
from layerprobe.jobs.lightning_hydra_template import extras
from layerprobe.program import CONF
from layerprobe.results.run_name import run_name, run_tags
from layerprobe.training.resume import Guard


def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", ["run_dir=run", *overrides], return_hydra_config=True)


def written_to(cfg: DictConfig) -> str:
    run: Any = OmegaConf.to_container(cfg.hydra.run, resolve=False)
    return run["dir"]


@pytest.mark.parametrize("name", ["early_stopping", "model_checkpoint", "rich_model_summary", "learning_rate_monitor"])
@pytest.mark.filterwarnings("ignore:.*is available on your system.*")
def test_a_callback_is_added_by_its_name_and_the_guard_comes_last(name: str, tmp_path: Path) -> None:
    cfg = composed(f"callbacks=[none,{name}]", f"run_dir={tmp_path}", "logger=csv", "trainer.accelerator=cpu")
    HydraConfig.instance().set_config(cfg)
    trainer: pl.Trainer = hydra.utils.instantiate(cfg.trainer)
    kind = type(hydra.utils.instantiate(cfg.callbacks[name]))
    assert kind.__name__.lower() == name.replace("_", "")
    mine = [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]
    assert len(mine) == 1, "and the trainer adds none of its own"
    (guard,) = [callback for callback in trainer.callbacks if isinstance(callback, Guard)]  # type: ignore[attr-defined]
    guard.setup(trainer, pl.LightningModule(), "fit")
    assert trainer.callbacks[-1] is guard  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "values", "probes"),
    [
        ("fdr", {"fast_dev_run": True, "max_epochs": 1}, False),
        ("overfit", {"overfit_batches": 3, "max_epochs": 20}, False),
        ("limit", {"limit_train_batches": 3, "max_epochs": 3}, True),
        ("profiler", {"profiler": "simple", "max_epochs": 1}, True),
    ],
)
def test_debugging_is_apart_from_runs_that_count(name: str, values: dict[str, Any], probes: bool) -> None:
    cfg = composed("experiment=xor_mlp", f"debug={name}")
    assert {key: cfg.trainer[key] for key in values} == values
    assert written_to(cfg).startswith("debug/") and not cfg.logger and ("probe" in cfg.callbacks) == probes
    assert written_to(composed("experiment=xor_mlp")).startswith("outputs/")
    assert list(composed(f"debug={name}", "logger=csv", "trainer.max_epochs=7").logger) == ["csv"]


def test_tags_go_to_the_dashboard_and_not_into_the_name() -> None:
    words = ["seed=1", "optimizer.lr=0.1", "tags=[a,b]", "extras.print_config=true", "hparams_search=optuna"]
    assert run_tags("xor", words, ["a", "b"]) == ["xor", "a", "b", "optimizer.lr=0.1"]
    assert run_name("xor", words) == "xor seed=1 lr=0.1"


def test_extras(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(CompactHydraException, match=r"The run has no tags.*tags=\[paper,first\]"),
        extras(composed("extras.enforce_tags=true")),
    ):
        raise AssertionError
    with extras(composed("extras.print_config=true", "extras.ignore_warnings=true", "tags=[a]")):
        warnings.warn("one that nobody wants", stacklevel=1)
    printed = capsys.readouterr()
    assert "├── model" in printed.out and "_target_: layerprobe.Classifier" in printed.out
    assert "one that nobody wants" not in printed.err
    with pytest.warns(UserWarning, match="wanted again"), extras(composed()):
        warnings.warn("wanted again", stacklevel=1)


@pytest.mark.slow
def test_optuna_draws_values_and_finds_the_smallest_objective(tmp_path: Path) -> None:
    words = ["experiment=xor_mlp", "hparams_search=optuna", "hydra.sweeper.n_trials=3", "logger=none"]
    short = ["trainer.max_epochs=1", "++trainer.limit_train_batches=2", "probe.l2=[0.1]", "report.figures=false"]
    code, output = call("train.py", *words, *short, "hydra.sweep.dir=search", cwd=tmp_path)
    assert code == 0, output
    found = OmegaConf.load(tmp_path / "search" / "optimization_results.yaml")
    runs = [json.loads((tmp_path / "search" / str(i) / "run.json").read_text()) for i in range(3)]
    rates = [OmegaConf.load(tmp_path / "search" / str(i) / ".hydra" / "config.yaml").optimizer.lr for i in range(3)]
    assert len(set(rates)) == 3 and all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert found.best_value == min(run["objective"] for run in runs)
    assert found.best_params["optimizer.lr"] in rates
