"""Find the training, validation and test data of a Lightning run."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytorch_lightning as pl

from layerprobe.probing.batches import Data
from layerprobe.types import SPLITS, Split

_STAGE: dict[Split, str] = {"train": "fit", "val": "fit", "test": "test"}


def splits_of_trainer(trainer: pl.Trainer, module: pl.LightningModule) -> Data:
    """The data of a run that is going on.

    Training and validation data are the loaders that the run itself uses. The test loader comes from a shallow copy of
    the data module, so that its `setup("test")` leaves the one that trains alone.

    Args:
        trainer: A trainer inside `fit`.
        module: Its module.

    Returns:
        The three splits, None for one that is missing.
    """
    datamodule: pl.LightningDataModule | None = getattr(trainer, "datamodule", None)
    found: dict[Split, Any] = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
    for split in SPLITS:
        if found.get(split) is None:
            found[split] = _from_hooks(datamodule, split) or _from_hooks(module, split)
    return {split: _one(found[split], split) for split in SPLITS}


def splits_of_datamodule(datamodule: pl.LightningDataModule) -> Data:
    """The data of a data module outside a run: prepared, set up, and read.

    Args:
        datamodule: Any data module; it is left as it is.

    Returns:
        The three splits, None for one that is missing.
    """
    datamodule.prepare_data()
    return {split: _one(_from_hooks(datamodule, split), split) for split in SPLITS}


def _from_hooks(owner: pl.LightningDataModule | pl.LightningModule | None, split: Split) -> Any:
    hook = f"{split}_dataloader"
    if owner is None or getattr(type(owner), hook) in (
        getattr(pl.LightningDataModule, hook),
        getattr(pl.LightningModule, hook),
    ):
        return None
    if isinstance(owner, pl.LightningDataModule):
        owner = copy.copy(owner)
        owner.setup(_STAGE[split])
    return getattr(owner, hook)()


def _one(loaders: Any, split: Split) -> Any:
    if isinstance(loaders, list | tuple) and not isinstance(loaders, str):
        if not loaders:
            return None
        if len(loaders) > 1:
            warnings.warn(
                f"There are {len(loaders)} {split} loaders; the first is probed. Give `data` to choose another.",
                stacklevel=2,
            )
        return loaders[0]
    return loaders
