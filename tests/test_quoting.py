"""Commands that are printed or typed: what Hydra and the shell read in them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict

from helpers.command import ROOT
from layerprobe.config import as_typed, register
from layerprobe.jobs.command_line import read_arguments
from layerprobe.jobs.lifecycle import continue_command
from layerprobe.quoting import command, override

PARSER = OverridesParser.create()
HOSTILE = st.one_of(
    st.text(st.sampled_from(list("ab/\\'\"${}=,()[] :#~üж%*?@!&|;<>^`-_.+1")), max_size=14),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=10),
)
NAMES = ("mü=a,b (c) $d{e} 'x'", 'say "x" {y} ~#a\\', "null")


@settings(max_examples=300)
@given(HOSTILE.filter(lambda text: text != "???"))  # which OmegaConf takes as missing, quoted or not
@example("${seed}")
@example("a\\${b}\\")
@example("null")
def test_the_shell_and_hydra_read_any_text_back(text: str) -> None:
    words = shlex.split(command("sweep", override("continue", text)))
    assert words[:3] == ["uv", "run", "scripts/sweep.py"] and len(words) == 4
    config = OmegaConf.create({"seed": 0, "continue": PARSER.parse_override(words[3]).value(), "again": "${continue}"})
    assert config["continue"] == text
    assert config.again == text


def test_plain_paths_have_no_quotes() -> None:
    assert override("continue", Path("multirun/xor_mlp/2026-01-02_03-04-05")).count("'") == 0


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("checkpoint=epoch=1-step=2.ckpt", "epoch=1-step=2.ckpt"),
        ("continue=/home/müller/multirun/x", "/home/müller/multirun/x"),
        ("data.template=Is it true? {text}", "Is it true? {text}"),
        ("data.root=/data (old)/x", "/data (old)/x"),
        ("a=1", 1),
        ("a=[1,2]", [1, 2]),
        ("a='x=y'", "x=y"),
    ],
)
def test_text_that_hydra_does_not_parse_is_taken_as_text(typed: str, value: object) -> None:
    (argument,) = as_typed([typed])
    assert PARSER.parse_override(argument).value() == value


def test_in_a_sweep_each_part_is_a_value() -> None:
    _, argument = as_typed(["-m", "checkpoint=epoch=1.ckpt,plain.ckpt"])
    assert argument == "checkpoint='epoch=1.ckpt',plain.ckpt"


@pytest.mark.parametrize("argument", ["probe.l2=[1,2", "a='x", "=3", "--cfg", "a=(1", "model.width=2,3", "a=range(3)"])
def test_what_lacks_a_bracket_or_parses_is_left_to_hydra(argument: str) -> None:
    assert as_typed([argument]) == [argument]


@dataclass
class Sweep:
    """As of `sweep.py`.

    Attributes:
        continue_: A sweep.
    """

    continue_: str | None = None


@pytest.fixture
def configurations() -> Iterator[None]:
    register()
    before = HydraConfig.instance().cfg
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield
    HydraConfig.instance().cfg = before


@pytest.mark.usefixtures("configurations")
@pytest.mark.parametrize("mode", RunMode)
def test_the_command_of_an_interrupted_run_leads_back_to_its_directory(tmp_path: Path, mode: RunMode) -> None:
    key = "hydra.run.dir" if mode == RunMode.RUN else "hydra.sweep.dir"
    for name in NAMES:
        directory = tmp_path / name / "x"
        words = ["seed=3", f"hydra.mode={mode.name}", override(key, directory)]
        config = compose("train", words, return_hydra_config=True)
        with open_dict(config):
            config.hydra.job.name, config.hydra.runtime.output_dir = "train", str(directory)
            config.hydra.overrides.task = ["seed=3"]
        HydraConfig.instance().set_config(config)
        script, *typed = shlex.split(continue_command())[2:]
        if mode == RunMode.RUN:
            assert script == "scripts/train.py"
            again = compose("train", typed, return_hydra_config=True)
            assert (again.hydra.run.dir, again.seed) == (str(directory), 3)
        else:
            assert script == "scripts/sweep.py"
            assert read_arguments(Sweep, "", typed).continue_ == str(directory)
