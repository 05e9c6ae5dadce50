"""The report as a user makes it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import forked, made_runs
from helpers import made_results as made
from layerprobe.results.run_summary import RunSummary
from layerprobe.results.store import ProbeStore

ROOT = Path(__file__).resolve().parents[2]


def report(cwd: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), *overrides]
    return forked.run(command, cwd=cwd)


def test_a_report_of_some_runs_leaves_nothing_else_behind(tmp_path: Path) -> None:
    made_runs.write_sweep(tmp_path / "outputs" / "sweep", 6)
    result = report(tmp_path, "figures=false", "where=model=='convnet' and optimizer.lr<0.05 and seed == 0")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["report.html", "report.csv", "report.parquet", "report.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "outputs", "report.csv", "report.html", "report.md", "report.parquet",
    ]  # fmt: skip
    assert "4 runs" in (tmp_path / "report.html").read_text()


def test_patterns_and_several_roots(tmp_path: Path) -> None:
    made_runs.write_sweep(tmp_path / "a", 3)
    made_runs.write_run(tmp_path / "b" / "x")
    assert report(tmp_path, "runs=[a,b]", "figures=false", "out=all.html").returncode == 0
    assert "4 runs" in (tmp_path / "all.md").read_text()
    assert report(tmp_path, "runs=a/[01]", "figures=false", "out=two.html").returncode == 0
    assert "2 runs" in (tmp_path / "two.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["runs=absent"], "No runs in absent: absent does not exist."),
        (["where=sed == 0"], "name 'sed' is not defined"),
        (["where=seed > 5"], "leaves none of 1 runs: seed is 0."),
        (["compare=[outputs/a,outputs/b]"], "there is no run 'outputs/b'. Did you mean "),
        (["compare=[a,b]"], "there is no run 'a'"),
    ],
)
def test_a_mistake_is_one_message(tmp_path: Path, overrides: list[str], message: str) -> None:
    made_runs.write_run(tmp_path / "outputs" / "a")
    result = report(tmp_path, *overrides)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_of_many_runs_the_near_ones_are_named(tmp_path: Path) -> None:
    for name in ("first", "second", *(f"run_{i:03d}" for i in range(30))):
        made_runs.write_run(tmp_path / "outputs" / name)
    said = report(tmp_path, "compare=[outputs/first,outputs/secand]", "figures=false").stderr
    assert "there is no run 'outputs/secand'. Did you mean outputs/second?" in said
    far = report(tmp_path, "compare=[x,y]", "figures=false").stderr
    assert "(32 in all)" in far
    assert len(far) < 400
    assert not (tmp_path / "report.html").exists()


def test_watching_renews_the_page_until_the_runs_have_ended(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "a"
    store = ProbeStore(run / "probes")
    store.add(made.result("initial", 0, 0, "input"))
    store.merge()
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), "watch=true", "interval=1", "figures=false"]
    process = forked.start(command, cwd=tmp_path)
    page = tmp_path / "report.html"
    wait_for(lambda: page.exists() and 'http-equiv="refresh"' in page.read_text())
    store.add(made.result("initial", 0, 1, "later_layer"))
    wait_for(lambda: "later_layer" in page.read_text())
    store.merge()
    RunSummary("done").write(run)
    output = "".join(process.communicate(timeout=120))
    assert process.returncode == 0, output
    assert "1 run going on" in output
    assert 'http-equiv="refresh"' not in page.read_text()


def wait_for(condition, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.2)
