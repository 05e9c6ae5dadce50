from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from layerprobe.probing.cost.machine import measure
from layerprobe.probing.solvers.operation_counts import Operations

CPU = torch.device("cpu")


def test_times_every_kind_that_is_asked_for(tmp_path: Path) -> None:
    every = Operations(**{field.name: 1 for field in fields(Operations)})
    found = measure(every, 64, 3, CPU, tmp_path)
    for field in fields(Operations):
        # A line through two noisy points may have no slope or no start, and a CPU records nothing.
        value = getattr(found, field.name)
        assert value >= 0 if field.name.split("_")[0] in ("thin", "scores", "fits") else value > 0
    assert found.scores + 64 * found.thin > 0
    assert not list(tmp_path.iterdir())


def test_times_nothing_else() -> None:
    found = measure(Operations(eigen=1), 64, 3, CPU)
    assert [field.name for field in fields(found) if getattr(found, field.name)] == ["eigen"]
    assert measure(Operations(), 64, 3, CPU) == Operations()


def test_one_column_and_one_feature_can_be_timed() -> None:
    found = measure(Operations(thin=1, scores=1, thin_double=1, scores_double=1, steps=1, elements=1), 1, 1, CPU)
    assert found.steps > 0
    assert found.elements > 0


def test_random_numbers_are_its_own() -> None:
    state = torch.get_rng_state()
    measure(Operations(thin=1, scores=1, square=1), 64, 3, CPU)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_s_launches_are_no_work() -> None:
    """What a sample or a product adds is far beneath what a launch takes: some microseconds."""
    every = Operations(**{field.name: 1 for field in fields(Operations)})
    found = measure(every, 1024, 10, torch.device("cuda:0"))
    for field in fields(Operations):
        value = getattr(found, field.name)
        assert value >= 0
        assert value < (1.0 if field.name in ("fits", "steps") else 1e-7)
    assert found.fits > 0
    assert found.steps > 0
