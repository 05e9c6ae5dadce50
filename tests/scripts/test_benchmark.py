from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


def run(directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/benchmark.py", f"hydra.run.dir={directory}", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_small_benchmark_judges_every_contender(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        "cases=[synthetic]",
        "peers=[layerprobe,scikit-learn,one-scikit-learn,adamw]",
        "scale=0.02",
        "repeats=1",
        "l2=[1e-1,10.0]",
        "threads=1",
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "summary.csv").set_index(["case", "contender"])
    ours, scikit = table.loc[("synthetic", "layerprobe")], table.loc[("synthetic", "scikit-learn")]
    assert (table["layers"] == 4).all()
    assert ours["excess"] == 0
    assert ours["times"] == 1
    assert -1e-4 < scikit["deficit"] < 1e-3, "the same objective, minimised no better"
    assert scikit["excess"] < 0.01, "and not something else"
    assert (table["seconds_min"] > 0).all()
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 4 * 4


@pytest.mark.parametrize(
    ("override", "message"),
    [("cases=[none]", "There is no case 'none'"), ("peers=[elk]", "peers_dir=PEERS")],
)
@pytest.mark.slow
def test_bad_input_gets_one_clear_error(tmp_path: Path, override: str, message: str) -> None:
    done = run(tmp_path, "peers=[layerprobe]", override)
    assert done.returncode != 0
    assert message in done.stderr
