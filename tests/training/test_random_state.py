"""The random generators come back as they were read, through a file as well."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from layerprobe.training.random_state import random_state, set_random_state


def draw() -> tuple[float, float, float, float]:
    return random.gauss(0, 1), float(np.random.randn()), float(torch.randn(1)), random.random()


def test_all_generators_through_a_file(tmp_path: Path) -> None:
    draw()
    torch.save(random_state(), tmp_path / "state.pt")
    first = draw()
    assert draw() != first
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == first
