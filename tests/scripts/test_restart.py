"""A run that died is started again with less to take, and goes on; with another configuration it is refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from helpers import command

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
STOPS = [
    "solver=ridge",
    "solver.ridge._target_=helpers.interrupted.StopsOnce",
    "probe.l2=[1e-3]",
    "logger=none",
    "report.figures=false",
]
RESTARTS = [["probe.max_memory=8GiB", "probe.batch_size=50"], ["data.num_workers=1"]]
SAVING = ["callbacks.guard.every_n_seconds=60"]
PROBES = ["callbacks.probe.before_training=false", "callbacks.probe.steps=[5,20]"]
TRAIN = ["experiment=xor_mlp", "data.repeats=30", *STOPS, *PROBES, "callbacks.guard.every_n_seconds=0"]


def call(script: str, cwd: Path, *words: str) -> tuple[int, str]:
    return command.call(script, *words, cwd=cwd, path=TESTS)


def results(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "probes" / "results.parquet")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "checkpoints" / "final.ckpt", weights_only=True)["state_dict"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a run that was never stopped."""
    cwd = tmp_path_factory.mktemp("whole")
    (cwd / "stopped").touch()
    assert call("train.py", cwd, *TRAIN, "hydra.run.dir=run")[0] == 0
    return weights(cwd / "run")


@pytest.mark.parametrize("restart", [*RESTARTS, SAVING], ids=str)
def test_training_goes_on(tmp_path: Path, restart: list[str], whole: dict[str, torch.Tensor]) -> None:
    words = [*TRAIN, "hydra.run.dir=run"]
    assert call("train.py", tmp_path, *words)[0] != 0
    begun = results(tmp_path / "run")
    code, said = call("train.py", tmp_path, *words, "seed=1")
    assert code == 1, said
    assert "holds a run of another configuration:\n  seed: 5 -> 1" in said
    code, said = call("train.py", tmp_path, *words, *restart)
    assert code == 0, said
    pd.testing.assert_frame_equal(results(tmp_path / "run").head(len(begun)), begun)  # the seconds too
    assert all(torch.equal(value, whole[name]) for name, value in weights(tmp_path / "run").items())


@pytest.mark.parametrize("restart", RESTARTS, ids=str)
def test_probing_goes_on(tmp_path: Path, restart: list[str]) -> None:
    words = ["model=xor_mlp", "data=xor", "data.repeats=30", *STOPS, "hydra.run.dir=run"]
    assert call("probe.py", tmp_path, *words)[0] != 0
    begun = results(tmp_path / "run")
    code, said = call("probe.py", tmp_path, *words, "seed=1")
    assert code == 1, said
    assert "they were found with seed=0, now 1." in said
    code, said = call("probe.py", tmp_path, *words, *restart)
    assert code == 0, said
    pd.testing.assert_frame_equal(results(tmp_path / "run").head(len(begun)), begun)
    assert "has been probed already" in call("probe.py", tmp_path, *words)[1]


def test_a_sweep_goes_on(tmp_path: Path) -> None:
    words = ["-m", "seed=0,1", *TRAIN, "hydra.sweep.dir=sweep"]
    assert call("train.py", tmp_path, *words)[0] != 0
    begun = results(tmp_path / "sweep" / "0")
    code, said = call("train.py", tmp_path, *words, "optimizer.lr=0.2")
    assert code == 1, said
    assert "optimizer.lr: 0.1 -> 0.2" in said
    code, said = call("train.py", tmp_path, *words, *RESTARTS[0], *RESTARTS[1], *SAVING)
    assert code == 0, said
    assert {path.parent.name for path in tmp_path.glob("sweep/*/run.json")} == {"0", "1"}
    pd.testing.assert_frame_equal(results(tmp_path / "sweep" / "0").head(len(begun)), begun)
