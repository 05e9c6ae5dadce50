"""What a fresh interpreter imports before there is anything to compute: a start must not take seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import forked, made_runs

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ["altair", "pandas", "pyarrow", "pytorch_lightning", "scipy", "sklearn", "torch", "transformers", "wandb"]
AFTER = """
import atexit, json, runpy, sys
where, *sys.argv = sys.argv[1:]
atexit.register(lambda: open(where, "w").write(json.dumps(sorted(sys.modules))))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def imported(cwd: Path, script: str, *words: str, code: int = 0) -> set[str]:
    """Modules that a fresh interpreter holds when the script ends."""
    command = [sys.executable, "-c", AFTER, str(cwd / "modules.json"), str(ROOT / "scripts" / script), *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return {name.partition(".")[0] for name in json.loads((cwd / "modules.json").read_text())}


@pytest.mark.parametrize(
    ("script", "words", "code"),
    [
        ("train.py", ["--help"], 0),
        ("train.py", ["--cfg", "job", "experiment=mnist"], 0),
        ("train.py", ["--info", "config"], 0),
        ("train.py", ["trainer.max_epoch=3"], 1),
        ("train.py", ["model=digits_convnett"], 1),
        ("probe.py", ["--help"], 0),
        ("probe.py", ["--cfg", "job", "model=torchvision"], 0),
        ("probe.py", ["reducer=[flattn]"], 1),
        ("report.py", ["--help"], 0),
        ("sweep.py", ["--help"], 0),
        ("features.py", ["--help"], 0),
        ("sweep.py", [], 1),
        ("sweep.py", ["status=nowhere"], 1),
        ("features.py", [], 0),
        ("probe.py", [], 1),
        ("probe.py", ["plan=true", "model=digits_convnet"], 1),
    ],
)
def test_what_needs_nothing_heavy_imports_nothing_heavy(
    tmp_path: Path, script: str, words: list[str], code: int
) -> None:
    assert imported(tmp_path, script, *words, code=code).isdisjoint(HEAVY)


def test_completion_imports_nothing_heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "train.py model=digits")
    monkeypatch.setenv("COMP_POINT", str(len("train.py model=digits")))
    assert imported(tmp_path, "train.py", "-sc", "query=bash").isdisjoint(HEAVY)


@pytest.mark.slow
def test_a_sweeps_state_needs_nothing_heavy_and_a_report_no_torch(tmp_path: Path) -> None:
    sweep = ["-m", "experiment=xor_linear", "data.repeats=10", "seed=0,1", "logger=none", "callbacks=none"]
    sweep += ["hydra.sweep.dir=sweep"]
    assert forked.run([sys.executable, str(ROOT / "scripts" / "train.py"), *sweep], cwd=tmp_path).returncode == 0
    assert imported(tmp_path, "sweep.py", "status=sweep").isdisjoint(HEAVY)
    made_runs.write_sweep(tmp_path / "outputs", 2)
    found = imported(tmp_path, "report.py", "figures=false")
    assert found.isdisjoint({"torch", "pytorch_lightning", "transformers", "wandb"})
    assert "pandas" in found, "the check sees what is imported"


def test_probing_tensors_needs_no_lightning() -> None:
    code = (
        "import sys, torch, layerprobe\n"
        "x, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2\n"
        "layerprobe.probe(torch.nn.Linear(4, 2), {split: (x, y) for split in ('train', 'val', 'test')}, l2=[1e-2])\n"
        "assert not {'pytorch_lightning', 'torchmetrics', 'transformers', 'wandb'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_script_that_is_forked_makes_processes_as_a_fresh_interpreter_does(tmp_path: Path) -> None:
    (tmp_path / "how.py").write_text("import multiprocessing; print(multiprocessing.get_start_method())")
    command = [sys.executable, "how.py"]
    fresh = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    assert forked.run(command, cwd=tmp_path).stdout == fresh.stdout
