from __future__ import annotations

from math import inf, nan

import pytest
import torch

from layerprobe.probing.features.reducers import FeatureWay, Flatten
from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.head_path import HeadPath
from layerprobe.probing.selection import select
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Solution, Status

Head = tuple[float, float, float]
"""Validation error, validation loss, L2 value."""


def path(*heads: Head, status: Status = Status.CONVERGED, validated: bool = True) -> HeadPath:
    """A path of heads whose weights are their places."""
    p, places = len(heads), torch.arange(float(len(heads)))
    solution = Solution(
        places.view(p, 1, 1), places.view(p, 1), places.double(), places.double(), places.long(), (status,) * p
    )
    standardiser = Standardiser(torch.zeros(1), torch.ones(1), torch.zeros(1, dtype=torch.bool))
    way = FeatureWay(Flatten(), Flatten().fit((1,), 0), 0)
    errors, losses, l2 = (tuple(values) for values in zip(*heads, strict=True))
    return HeadPath(way, Ridge(), standardiser, l2, solution, (errors, losses) if validated else None)


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        ([(0.2, 1.0, 1.0), (0.1, 9.0, 1.0)], 1),
        ([(0.1, 1.0, 1.0), (0.1, 0.5, 0.1)], 1),
        ([(0.1, 0.5, 0.1), (0.1, 0.5, 1.0)], 1),
        ([(0.1, 0.5, 1.0), (0.1, 0.5, 1.0)], 0),
        ([(nan, 0.1, 1.0), (0.9, 9.0, 1.0)], 1),
        ([(0.1, nan, 1.0), (0.1, 9.0, 0.1)], 1),
        ([(0.1, inf, 1.0), (0.1, 9.0, 0.1)], 1),
        ([(nan, nan, 1.0)], None),
    ],
)
def test_error_then_loss_then_larger_l2(heads: list[Head], expected: int | None) -> None:
    assert path(*heads).best == expected
    apart = [path(head) for head in heads]
    assert select(apart) is (None if expected is None else apart[expected])


def test_nothing_is_chosen_of_nothing() -> None:
    assert select([]) is None


@pytest.mark.parametrize("status", [Status.DIVERGED, Status.SKIPPED])
def test_a_head_that_was_not_fitted_has_no_error_whatever_validation_says_of_it(status: Status) -> None:
    found = path((0.1, 0.2, 1.0), status=status)
    assert found.best is None
    assert torch.tensor(found.val_error).isnan().all()


def test_without_validation_the_only_head_is_the_best_unless_it_diverged() -> None:
    assert path((0.1, 0.2, 1.0), validated=False).best == 0
    assert path((0.1, 0.2, 1.0), validated=False, status=Status.DIVERGED).best is None


def test_one_value_of_a_path_is_a_path_of_one_that_lets_the_others_go() -> None:
    found = path((0.3, 1.0, 1.0), (0.1, 2.0, 0.1), (0.2, 3.0, 0.01))
    assert found.best == 1
    head = found[1]
    assert (head.l2, head.val_error, head.val_loss, head.best) == ((0.1,), (0.1,), (2.0,), 0)
    assert float(head.heads.weight) == float(head.solution.gap) == 1.0
    assert head.heads.weight.untyped_storage().nbytes() == 4
