"""Debug runs: what they do with a real data set, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.command import run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"), [("fdr", ""), ("limit", "final"), ("overfit", ""), ("profiler", "[Callback]ProbeCallback")]
)
def test_a_debug_run_ends_and_leaves_nothing_among_those_that_count(name: str, said: str, tmp_path: Path) -> None:
    short = ["probe.layers=[logits]"] if name in ("limit", "profiler") else []
    done = run("train.py", f"debug={name}", *short, cwd=tmp_path)
    assert said in done.stdout + done.stderr
    assert not (tmp_path / "outputs").exists() and not list(tmp_path.rglob("wandb"))
    assert len(list((tmp_path / "debug").glob("*/*/run.json"))) == 1
    assert bool(list(tmp_path.rglob("results.parquet"))) == bool(short)
