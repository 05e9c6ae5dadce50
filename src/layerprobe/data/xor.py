"""The four points of exclusive or."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from layerprobe.data.in_memory import AbstractInMemoryDataModule, InMemoryDataset
from layerprobe.data.samplers import RepeatedOrder
from layerprobe.types import SPLITS, Split


class XorDataModule(AbstractInMemoryDataModule):
    """Exclusive or of two bits: (0, 0), (0, 1), (1, 0), (1, 1) with targets 0, 1, 1, 0.

    Train, validation and test are the same four points: they are the whole problem. Nothing is shuffled.

    Args:
        repeats: Passes over the four points in one training epoch; with full batches, its gradient steps.
        batch_size: Samples in a batch; 4 is full-batch gradient descent.
        num_workers: Worker processes of each loader.

    Attributes:
        population: Tells probing that the test split is all that there is: its errors are exact, without an interval.
    """

    population = True

    def __init__(self, repeats: int = 5000, batch_size: int = 4, num_workers: int = 0) -> None:
        super().__init__(2, batch_size, num_workers, partial(RepeatedOrder, repeats=repeats))

    def read_splits(self) -> Mapping[Split, InMemoryDataset]:
        """Write down the truth table, three times."""
        points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        dataset = InMemoryDataset(points, torch.tensor([0, 1, 1, 0]))
        return dict.fromkeys(SPLITS, dataset)
