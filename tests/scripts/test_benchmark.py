from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from helpers import forked

ROOT = Path(__file__).parents[2]


def run(directory: Path, *overrides: str, script: str = "peers") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"scripts/benchmarks/{script}.py", f"hydra.run.dir={directory}", *overrides]
    return forked.run(command, cwd=ROOT)


@pytest.mark.slow
def test_a_small_benchmark_judges_every_contender(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        "cases=[synthetic]",
        "peers=[layerprobe,layerprobe-full,scikit-learn,scikit-learn-certified,one-scikit-learn,adamw]",
        "scale=0.02",
        "repeats=1",
        "l2=[1e-1,10.0]",
        "threads=1",
    )
    assert done.returncode == 0, done.stderr
    assert "scikit-learn-certified" in done.stdout and "…" not in done.stdout
    table = pd.read_csv(tmp_path / "summary.csv").set_index(["case", "contender"])
    assert table.loc[("synthetic", "layerprobe"), "times"] == 1
    ours, scikit = table.loc[("synthetic", "layerprobe-full")], table.loc[("synthetic", "scikit-learn")]
    assert (table["layers"] == 4).all()
    assert ours["excess"] == 0
    assert -1e-4 < scikit["deficit"] < 1e-3, "the same objective, minimised no better"
    assert scikit["excess"] < 0.01, "and not something else"
    assert (table["seconds_min"] > 0).all()
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 4 * 6


@pytest.mark.parametrize(
    ("override", "message"),
    [("cases=[none]", "There is no case 'none'"), ("peers=[elk]", "peers_dir=PEERS")],
)
@pytest.mark.slow
def test_bad_input_gets_one_clear_error(tmp_path: Path, override: str, message: str) -> None:
    done = run(tmp_path, "peers=[layerprobe]", override)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.slow
def test_other_libraries_are_left_out_where_nothing_says_where_they_are(tmp_path: Path) -> None:
    assert "There is no case 'none'" in run(tmp_path, "cases=[none]").stderr


@pytest.mark.slow
def test_growth_is_measured_and_drawn(tmp_path: Path) -> None:
    sizes = ["base.n=200", "base.d=8", "base.c=3", "base.points=2", "factors=[1,2]", "repeats=1", "threads=1"]
    done = run(tmp_path, *sizes, script="growth")
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "growth.csv")
    assert frame.groupby("size")["value"].apply(list).to_dict() == {
        "n": [200, 400], "d": [8, 16], "c": [3, 6], "layers": [1, 2], "points": [2, 4],
    }  # fmt: skip
    assert (tmp_path / "growth.png").exists()


@pytest.mark.slow
def test_peak_memory_stays_within_each_budget_and_changes_no_result(tmp_path: Path, shared: Path) -> None:
    sizes = ["n=1000", "layers=[conv1_postpool]", "budgets=[1KB,950MB,2GB]", f"mnist={shared / 'data'}"]
    done = run(tmp_path, *sizes, script="memory")
    assert done.returncode == 0, done.stderr
    assert "1KB: Probing needs" in done.stdout
    frame = pd.read_csv(tmp_path / "memory.csv")
    assert len(frame) == 2
    assert (frame["features"] == 6272).all()
    assert frame["test_errors"].nunique() == 1
    assert (frame["peak"] < frame["budget"]).all()


@pytest.mark.slow
def test_plans_are_compared_with_what_they_plan(tmp_path: Path) -> None:
    """That they come near is for a quiet machine; here only what is said and what was done agree."""
    done = run(tmp_path, "cases=[digits,gaussian]", "scale=0.05", script="plan")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "plan.csv").set_index("case")
    assert table["layers"].to_dict() == {"digits": 10, "gaussian": 1}
    assert table.loc["gaussian", "samples"] == 500
    assert (table[["planning", "said", "taken"]] > 0).all(axis=None)
    assert (table["ratio"] - table["said"] / table["taken"]).abs().max() < 1e-9
    assert "There is no case 'none'" in run(tmp_path, "cases=[none]", script="plan").stderr
