from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.reference import made
from layerprobe.probing.features.row_blocks import JoinedRows
from layerprobe.probing.solvers import softmax_objective
from layerprobe.probing.solvers.binary_objective import BinaryObjective
from layerprobe.probing.solvers.softmax_objective import SoftmaxObjective


@pytest.fixture
def heads():
    return torch.randn(3, 1, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


L2 = torch.tensor([1e-3, 0.0, 2.0], dtype=torch.float64)


def same(found, expected, **tolerance):
    for name in ("objective", "gradient", "curvature"):
        ours, theirs = getattr(found, name).double(), getattr(expected, name).double()
        scale = float(theirs.abs().max())
        np.testing.assert_allclose(ours, theirs, **{key: value * scale for key, value in tolerance.items()})


@pytest.mark.parametrize("n", [2, 700, 4099, 5000])
def test_is_the_softmax_of_two_classes(n, heads):
    features, targets = (torch.as_tensor(part) for part in made(n, 9, 2, 0.8))
    found = BinaryObjective(features, targets, torch.float64)(heads, L2, True)
    same(found, SoftmaxObjective(features, targets, 2, torch.float64)(heads, L2, True), rtol=0, atol=1e-12)


def test_the_curvature_is_left_out_unless_asked_for(heads):
    features, targets = (torch.as_tensor(part) for part in made(50, 9, 2, 0.8))
    assert BinaryObjective(features, targets, torch.float64)(heads, L2, False).curvature is None


@pytest.mark.parametrize("sign", [1, -1])
def test_float32_keeps_the_digits_on_either_side(sign, heads):
    """Scores far to the right side leave losses near 1e-12, those far to the wrong side losses near 100."""
    features, targets = (torch.as_tensor(part) for part in made(400, 9, 2, 8.0))
    means = torch.stack([features[targets == k].mean(0) for k in range(2)])
    towards = sign * (means[1] - means[0])
    head = torch.cat([towards, -(means.mean(0) @ towards)[None]])[None, None]
    found = BinaryObjective(features, targets, torch.float32)(head, L2[1:2], True)
    exact = SoftmaxObjective(features, targets, 2, torch.float64)(head.double(), L2[1:2], True)
    assert exact.objective < 1e-6 if sign == 1 else exact.objective > 10
    same(found, exact, rtol=0, atol=1e-3)


def test_scores_far_apart_overflow_nowhere(heads):
    features, targets = (torch.as_tensor(part) for part in made(400, 9, 2, 0.8))
    found = BinaryObjective(features, targets, torch.float32)(1e4 * heads.float(), L2, True)
    exact = SoftmaxObjective(features, targets, 2, torch.float64)((1e4 * heads.float()).double(), L2, True)
    assert torch.isfinite(found.gradient).all()
    np.testing.assert_allclose(found.objective, exact.objective, rtol=1e-5)


def test_blocks_that_are_read_one_by_one_are_summed_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """In single precision a sum of 500 blocks would be off by more than its own rounding."""
    monkeypatch.setattr(softmax_objective, "BLOCK", 40 * 8)
    x = torch.rand(20_000, 8, generator=torch.Generator().manual_seed(0)) + 1
    targets = (torch.arange(20_000) % 100 == 0).long()
    rows, heads = JoinedRows(x[:9_000], x[9_000:]), torch.zeros(1, 1, 9)
    found = BinaryObjective(rows, targets, torch.float32)(heads, L2[:1], False).gradient
    exact = BinaryObjective(x, targets, torch.float64)(heads.double(), L2[:1], False).gradient
    torch.testing.assert_close(found.double(), exact, rtol=1e-7, atol=0)
