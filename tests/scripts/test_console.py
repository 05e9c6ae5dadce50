"""The console command: `layerprobe train` is `scripts/train.py`, and so on, wherever the package is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import layerprobe
from helpers import forked
from helpers.command import ROOT
from layerprobe import program
from layerprobe.__main__ import COMMANDS, main

INSTALLED = """
import json, os, sys
from helpers import forked
del os.environ["PYTHONPATH"]
for line in sys.stdin:
    done = forked.run([sys.executable, *json.loads(line)], cwd=".")
    print(json.dumps([done.returncode, done.stdout + done.stderr]), flush=True)
"""
"""Runs a program of another environment for each line, with what that environment has imported once."""


@pytest.fixture(autouse=True)
def uncalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(program.CALLED, raising=False)
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)


def called(*words: str, cwd: Path, **environment: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "src" / "layerprobe" / "__main__.py"), *words]
    done = forked.run(command, cwd=cwd, env={**os.environ, "COLUMNS": "160", **environment})
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "commands:\n  train "),
        (["--help"], 0, "commands:\n  train "),
        (["--version"], 0, f"layerprobe {layerprobe.__version__}"),
        (["trian"], 2, "There is no command 'trian'. Did you mean train?"),
        (["--verison"], 2, "unrecognized arguments: --verison"),
    ],
)
def test_the_first_word(
    words: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["layerprobe", *words])
    with pytest.raises(SystemExit) as end:
        main()
    streams = capsys.readouterr()
    assert end.value.code == code and said in streams.out + streams.err


def test_every_command_is_a_script_and_the_other_way_round() -> None:
    assert {file.stem for file in (ROOT / "scripts").glob("*.py")} == set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--help"], "  layerprobe train experiment=mnist data.root=DIR"),
        (["train", "trainer.max_epoch=3"], "layerprobe train: trainer has no 'max_epoch'. Did you mean max_epochs?"),
        (["train", "experiment=concept_depth"], ": python -m layerprobe probe experiment=concept_depth"),
        (["sweep"], "layerprobe sweep status=DIR"),
        (["report", "--help"], "usage: layerprobe report"),
    ],
)
def test_messages_name_the_command_as_it_was_called(words: list[str], said: str, tmp_path: Path) -> None:
    assert said in called(*words, cwd=tmp_path)[1]


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("layerprobe tr", set(COMMANDS)),
        ("layerprobe train model=dee", {"model=deep_convnet", "model=deep_mlp"}),
        ("layerprobe  probe checkp", {"checkpoint="}),
        ("layerprobe report ", set()),
    ],
)
def test_a_shell_is_told_what_completes_a_line(line: str, choices: set[str], tmp_path: Path) -> None:
    code, output = called("-sc", "query=bash", cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert code == 0 and set(output.split()) == choices


@pytest.mark.slow(seconds=60)
def test_a_project_of_ones_own_works_with_the_installed_package(tmp_path: Path) -> None:
    """The wheels of both are installed without their dependencies, which are those of this environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "LAYERPROBE_"))}
    environment |= {"HOME": str(tmp_path), "COLUMNS": "160", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)

    def does(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    for project in (ROOT, ROOT / "docs" / "example_project"):
        does("uv", "build", "--quiet", "--cache-dir", tmp_path / "cache", "--out-dir", tmp_path / "dist", project)
    does("uv", "venv", "--quiet", "--python", sys.executable, "env")
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (packages / "zz_dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    wheels = sorted((tmp_path / "dist").glob("*.whl"))
    does("uv", "pip", "install", "--quiet", "--no-deps", "--python", "env", *wheels)
    python, program = (tmp_path / "env" / "bin" / name for name in ("python", "layerprobe"))
    about = environment | {"PYTHONPATH": str(ROOT / "tests")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([python, "-c", INSTALLED], cwd=tmp_path, env=about, text=True, **pipes) as process:

        def installed(*words: str, code: int = 0) -> str:
            print(json.dumps([str(program), *words]), file=process.stdin, flush=True)
            returned, said = json.loads(process.stdout.readline())
            assert returned == code, said
            return str(said)

        short = ["experiment=spirals", "trainer.max_epochs=2", "probe.l2=[0.1]", "logger=none", "report.figures=false"]
        installed("train", "-m", *short, "model.width=4,8", "hydra/launcher=gpu_box", "hydra.sweep.dir=sweep")
        (tmp_path / "sweep" / "1" / "run.json").unlink()
        said = installed("sweep", "continue=sweep")
        assert said.startswith("Going on: layerprobe train -m experiment=spirals ") and "2 jobs, 1 done before" in said
        installed("report", "runs=sweep", "figures=false")
        assert "hidden2.0" in (tmp_path / "report.md").read_text()

        theirs = ["probe", "checkpoint=sweep/0/checkpoints/final.ckpt", "plan=true"]
        refused = installed(*theirs, code=1)
        assert "its model._target_ is 'spirals.network.SpiralNet'" in refused and "model=NAME" in refused
        named = ["+model._target_=spirals.network.SpiralNet", "+data._target_=spirals.data.SpiralsDataModule"]
        for trusting in (["trust_checkpoint=true"], named):  # its width is that of the file
            assert "hidden2.1 4 " in installed(*theirs, *trusting)

        (tmp_path / "mine" / "model").mkdir(parents=True)
        (tmp_path / "mine" / "model" / "wide.yaml").write_text("defaults: [spiral_net, _self_]\nwidth: 32\n")
        said = installed("train", "--config-dir", "mine", *short, "model=wide", "trainer.max_epochs=oops", code=1)
        assert said.startswith("layerprobe train: trainer.max_epochs=oops: ")
        said = installed("train", "--config-dir", "mine", "--cfg", "job", "model=wide", "experiment=spirals")
        assert "width: 32" in said
    assert "layerprobe probe checkpoint=" in does(program, "probe", "--help")
