"""Samples in memory, gathered and rescaled a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Integer, Shaped
from torch import Tensor
from torch.utils.data import Dataset

Sample = tuple[Float[Tensor, "*shape"], Int[Tensor, ""]]


class InMemoryDataset(Dataset[Sample]):
    """Pairs of (input, class index) that lie in memory as two tensors.

    An input is `stored * scale + shift` as float32, so that a set of images may stay in memory as bytes.

    The tensors are not copied.

    Args:
        stored: The inputs as they lie in memory, of any type.
        targets: Class indices.
        scale: Factor from stored values to inputs.
        shift: Summand from scaled values to inputs.
    """

    def __init__(
        self,
        stored: Shaped[Tensor, "n ..."],
        targets: Integer[Tensor, " n"],
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> None:
        self.stored = stored
        self.targets = targets.long()
        self._scale = scale
        self._shift = shift

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        """Return one sample."""
        return self._inputs(self.stored[index]), self.targets[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the samples of one batch: the loader's way around one call for each sample."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        inputs = self._inputs(self.stored[chosen])
        return list(zip(inputs.unbind(), self.targets[chosen].unbind(), strict=True))

    def _inputs(self, stored: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return stored.to(torch.float32) * self._scale + self._shift
