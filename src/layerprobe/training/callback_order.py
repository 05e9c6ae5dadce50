"""The place of layerprobe's callbacks among a trainer's."""

from __future__ import annotations

from typing import ClassVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

LOOKS, SAVES = 1, 3
"""Behind whatever may change the network; behind all, checkpoints of the trainer's own included."""


class LateCallback(pl.Callback):
    """A callback that goes behind those of others, wherever it is listed, and sees the network as they leave it.

    Weight averaging and pruning write to the network at the end of a batch, an epoch or the training.

    Attributes:
        place: `LOOKS` or `SAVES`.
    """

    place: ClassVar[int] = LOOKS

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take that place."""
        trainer.callbacks = sorted(trainer.callbacks, key=_place)  # type: ignore[attr-defined]


def _place(callback: pl.Callback) -> int:
    if isinstance(callback, LateCallback):
        return callback.place
    return 2 if isinstance(callback, Checkpoint) else 0
