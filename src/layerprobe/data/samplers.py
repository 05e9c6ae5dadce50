"""Order in which training samples are drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import DistributedSampler, Sampler


class ShuffledOrder(Sampler[int]):
    """A new permutation in every epoch, a function of the seed and the epoch alone.

    It holds no random state: going through the loader once more, for a probe, changes nothing that training sees, and
    a resumed run sees what the uninterrupted one would have seen. Lightning calls `set_epoch`, as it does on a
    `DistributedSampler`.
    """

    def __init__(self, n_samples: int, seed: int) -> None:
        self._n_samples = n_samples
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation that the next iteration gives."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Count the samples of one epoch."""
        return self._n_samples

    def __iter__(self) -> Iterator[int]:
        """Go through the epoch's permutation."""
        yield from np.random.default_rng((self._seed, self._epoch)).permutation(self._n_samples).tolist()


class RepeatedOrder(Sampler[int]):
    """All samples in their own order, again and again within one epoch.

    The repetition is the sampler's: the loader's `dataset` still holds each sample once.
    """

    def __init__(self, n_samples: int, repeats: int) -> None:
        self._n_samples = n_samples
        self._repeats = repeats

    def __len__(self) -> int:
        """Count the draws of one epoch."""
        return self._n_samples * self._repeats

    def __iter__(self) -> Iterator[int]:
        """Go through all passes."""
        for _ in range(self._repeats):
            yield from range(self._n_samples)


class ShardedOrder(DistributedSampler[int]):
    """The part of an order that one process of several draws.

    Process r of n draws the positions r, r + n, r + 2n, … of the order, begun again where it does not divide. That it
    is a `DistributedSampler` tells Lightning to leave it as it is: its own would forget the order that it replaces.

    Args:
        order: The order of all processes together.
        rank: Number of this process.
        n_ranks: How many there are; 1 for all of the order.
    """

    def __init__(self, order: Sampler[int], rank: int, n_ranks: int) -> None:
        super().__init__(order, num_replicas=n_ranks, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self._order = order

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        if hasattr(self._order, "set_epoch"):
            self._order.set_epoch(epoch)

    def __len__(self) -> int:
        """Count this process's draws of one epoch."""
        return -(-len(self._order) // self.num_replicas)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        """Go through this process's part."""
        whole = list(self._order)
        for position in range(len(self)):
            yield whole[(position * self.num_replicas + self.rank) % len(whole)]
