from __future__ import annotations

import pytest
import torch

from layerprobe.probing.controls import majority_error, shuffled
from layerprobe.probing.targets import Labels


def labels(train: list[int], val: list[int], test: list[int]) -> Labels:
    return Labels.of({"train": torch.tensor(train), "val": torch.tensor(val), "test": torch.tensor(test)})


def test_places_in_the_sorted_training_classes() -> None:
    found = labels([7, 2, 7], [2, 3], [9, 7])
    assert found.outputs.tolist() == [2, 7]
    assert [found.splits[s].tolist() for s in ("train", "val", "test")] == [[1, 0, 1], [0, -1], [-1, 1]]


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="the class 4 only"):
        labels([4, 4], [4], [4])


def test_shuffling_keeps_the_counts_and_leaves_the_order() -> None:
    targets = torch.arange(100) % 4
    found = shuffled(targets, 0)
    assert torch.equal(found.bincount(), targets.bincount())
    assert torch.equal(found, shuffled(targets, 0))
    assert not torch.equal(found, targets)
    assert not torch.equal(found, shuffled(targets, 1))


def test_shuffling_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    shuffled(torch.arange(10), 0)
    assert torch.equal(before, torch.get_rng_state())


def test_majority_error() -> None:
    assert majority_error(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0, 0])) == 0.75
