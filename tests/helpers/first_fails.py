"""A callback that the first task of a SLURM job cannot make, while the others wait for it."""

from __future__ import annotations

import os

import pytorch_lightning as pl


class FirstFails(pl.Callback):
    """Raises in the first task, before the tasks have met."""

    def __init__(self) -> None:
        if os.environ.get("SLURM_PROCID") == "0":
            raise ArithmeticError("the first task fails")
