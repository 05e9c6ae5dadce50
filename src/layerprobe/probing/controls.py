"""What a test error has to be compared with."""

from __future__ import annotations

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


def majority_error(train_targets: Int[Tensor, " n"], test_targets: Int[Tensor, " m"]) -> float:
    """Test error of always answering the most frequent training class (the smallest one of several)."""
    majority = torch.bincount(train_targets[train_targets >= 0]).argmax()
    return (test_targets != majority).double().mean().item()


def shuffled(targets: Shaped[Tensor, "n ..."], seed: int) -> Shaped[Tensor, "n ..."]:
    """The same labels, each given to another sample at random.

    What a head still learns on them is memory and chance, not the layer: Hewitt & Liang (2019) call the difference
    selectivity.

    Args:
        targets: Targets of any kind, samples first.
        seed: Seed of the permutation, drawn from a generator of its own.

    Returns:
        The permuted targets.
    """
    generator = torch.Generator().manual_seed(seed)
    return targets[torch.randperm(len(targets), generator=generator).to(targets.device)]
