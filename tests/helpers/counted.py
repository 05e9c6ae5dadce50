"""A callback that writes down every step that is trained, so that one which is trained twice shows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl


class CountsSteps(pl.Callback):
    """Adds a line to a file at each step; where told to, takes its time until there is a file `hurry` beside it."""

    def __init__(self, path: str, pause: float = 0.0) -> None:
        self._path = Path(path)
        self._pause = pause

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if trainer.is_global_zero:
            with open(self._path, "a") as file:
                file.write(f"{trainer.global_step}\n")
        if self._pause and not (self._path.parent / "hurry").exists():
            time.sleep(self._pause)


def steps_in(directory: Path) -> list[int]:
    """The steps that a run was trained for, as they came."""
    return [int(line) for line in (directory / "steps.txt").read_text().split()]
