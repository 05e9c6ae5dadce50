"""The targets of all splits, as the heads see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from layerprobe.probing.controls import shuffled
from layerprobe.types import SPLITS, Split


@dataclass(frozen=True)
class Labels:
    """Targets as places in the sorted list of the training classes; -1 for a class that train does not have.

    Attributes:
        classes: The training classes.
        splits: Targets of each split.
    """

    classes: Int[Tensor, " c"]
    splits: Mapping[Split, Int[Tensor, " n"]]

    @classmethod
    def of(cls, targets: Mapping[Split, Int[Tensor, " n"]]) -> Labels:
        """Number the training classes.

        Args:
            targets: Class indices of each split that there is.

        Returns:
            The labels.

        Raises:
            ValueError: Where train holds one class only.
        """
        classes = targets["train"].unique()
        if len(classes) < 2:
            raise ValueError(
                f"The train split has the class {int(classes[0])} only. A probe needs at least two classes to tell "
                "apart: give a training split with more classes."
            )

        def place(values: Tensor) -> Tensor:
            index = torch.searchsorted(classes, values).clamp(max=len(classes) - 1)
            return torch.where(classes[index] == values, index, -1)

        return cls(classes, {split: place(targets[split]) for split in SPLITS if split in targets})

    def shuffled(self, seed: int) -> Labels:
        """The same labels, permuted within each split."""
        return Labels(
            self.classes,
            {
                split: shuffled(self.splits[split], len(SPLITS) * seed + i)
                for i, split in enumerate(SPLITS)
                if split in self.splits
            },
        )
