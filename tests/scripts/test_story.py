"""The figures of the first page: each has the command that made it, and the small ones are made again."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.command import ROOT, call

STORY = ROOT / "docs" / "index.md"
FIGURE = re.compile(
    r"^!\[(?P<says>[^\]]+)\]\((?P<file>[^)]+)\)\n\n```bash\n(?P<command>.+?) +# (?P<made>\S+)", re.MULTILINE
)
FIGURES = {Path(found["file"]).stem: found for found in FIGURE.finditer(STORY.read_text())}
SMALL = ["xor_linear", "xor_hidden", "activation_depth"]
TOLERANCE = 2.0


def picture(stem: str) -> Path:
    return (STORY.parent / FIGURES[stem]["file"]).resolve()


def distance(a: Path, b: Path) -> float:
    """Mean distance of two pictures, in grey levels of 255, seen from so far away that fonts do not count."""
    far = [
        np.asarray(Image.open(file).convert("L").resize((64, 64), Image.Resampling.BOX), dtype=float) for file in (a, b)
    ]
    return float(np.abs(far[0] - far[1]).mean())


def test_every_figure_has_its_command_and_is_light() -> None:
    assert len(FIGURES) == STORY.read_text().count("\n![")
    for stem in FIGURES:
        assert picture(stem).stat().st_size < 150_000, stem


def test_figures_are_told_apart() -> None:
    assert all(distance(picture(a), picture(b)) > 2 * TOLERANCE for a in SMALL for b in FIGURES if a != b)


@pytest.mark.slow(seconds=150)
@pytest.mark.parametrize("stem", SMALL)
def test_a_small_figure_is_what_its_command_makes(stem: str, tmp_path: Path) -> None:
    _, _, script, *words = shlex.split(FIGURES[stem]["command"])
    directories = [f"hydra.{kind}.dir={tmp_path / 'run'}" for kind in ("run", "sweep")]
    made = tmp_path / "run" / FIGURES[stem]["made"]
    drawn = f"report.figures={str(made.parent.name == 'figures').lower()}"  # a sweep's picture needs none of its jobs'
    code, output = call(Path(script).name, *words, "logger=none", drawn, *directories, cwd=tmp_path)
    assert code == 0, output
    assert distance(made, picture(stem)) < TOLERANCE, f"look at {made}, and copy it to {picture(stem)} if it is right"
