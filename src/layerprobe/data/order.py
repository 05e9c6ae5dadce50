"""The order in which training samples are drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class ShuffledOrder(Sampler[int]):
    """A new permutation in every epoch, a function of the seed and the epoch alone.

    It holds no random state: going through the loader once more, for a probe, changes nothing that training sees, and
    a resumed run sees what the uninterrupted one would have seen. Lightning calls `set_epoch`, as it does on a
    `DistributedSampler`.
    """

    def __init__(self, n_samples: int, seed: int) -> None:
        """Start at epoch 0.

        Args:
            n_samples: Length of a permutation.
            seed: Any integer that is not negative.
        """
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
        """Take the length of one pass and their number.

        Args:
            n_samples: Length of one pass.
            repeats: Passes in an epoch.
        """
        self._n_samples = n_samples
        self._repeats = repeats

    def __len__(self) -> int:
        """Count the draws of one epoch."""
        return self._n_samples * self._repeats

    def __iter__(self) -> Iterator[int]:
        """Go through all passes."""
        for _ in range(self._repeats):
            yield from range(self._n_samples)
