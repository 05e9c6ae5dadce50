"""Targets of all splits, as the heads see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from layerprobe.probing.controls import by_type, shuffled
from layerprobe.types import SPLITS, Split


def n_outputs(targets: Shaped[Tensor, "n ..."]) -> int:
    """Count the classes, labels or values that there are, as far as some targets tell."""
    return targets.shape[1] if targets.ndim > 1 else int(targets.max()) + 1


@dataclass(frozen=True)
class Labels:
    """Targets of each split, laid out for heads with one output for each class, label or value.

    Attributes:
        outputs: What the heads' outputs stand for: the training classes; 0, 1, … for labels and values.
        splits: Targets of each split; classes as places in `outputs`, -1 for a class that train does not have.
        extra: What a saved head needs to read its outputs.
    """

    outputs: Int[Tensor, " c"]
    splits: Mapping[Split, Shaped[Tensor, "n ..."]]
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, targets: Mapping[Split, Int[Tensor, " n"]]) -> Labels:
        """Number the training classes.

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

        splits = {split: place(values) for split, values in targets.items()}
        return cls(classes, splits, {"classes": classes})

    def read_on(self, test_set: Split) -> Labels:
        """Return the same labels with one test set, as `test`."""
        kept = {split: self.splits[split] for split in ("train", "val") if split in self.splits}
        return replace(self, splits={**kept, "test": self.splits[test_set]})

    def shuffled(self, seed: int) -> Labels:
        """Permute the labels within each split."""
        return Labels(
            self.outputs,
            {
                split: shuffled(targets, len(SPLITS) * seed + SPLITS.index(split if split in SPLITS else "test"))
                for split, targets in self.splits.items()
            },
            self.extra,
        )

    def by_type(self, keys: Mapping[Split, Int[Tensor, " n"]], seed: int) -> Labels:
        """Draw a random label for each type of sample, the same on every split."""
        train = self.splits["train"]
        return Labels(self.outputs, {split: by_type(train, keys[split], seed) for split in self.splits}, self.extra)
