"""Find the training, validation and test data of a Lightning run."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, TypeAlias

import pytorch_lightning as pl

from layerprobe.probing.batches import Data
from layerprobe.types import SPLITS, Split

_STAGE: dict[Split, str] = {"train": "fit", "val": "fit", "test": "test"}


Loaders: TypeAlias = Mapping[str, int | str | None]
"""Which loader of a split to take where there are several: its index or its key, by split."""


def splits_of_trainer(trainer: pl.Trainer, module: pl.LightningModule, loaders: Loaders | None = None) -> Data:
    """The data of a run that is going on.

    Training and validation data are the loaders that the run itself uses. The test loader comes from a shallow copy of
    the data module, so that its `setup("test")` leaves the one that trains alone.

    Args:
        trainer: A trainer inside `fit`.
        module: Its module.
        loaders: Which of several loaders to take; by default the first.

    Returns:
        The three splits, None for one that is missing.
    """
    datamodule: pl.LightningDataModule | None = getattr(trainer, "datamodule", None)
    found: dict[Split, Any] = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
    for split in SPLITS:
        if found.get(split) is None:
            found[split] = _from_hooks(datamodule, split) or _from_hooks(module, split)
    return {split: _one(found[split], split, loaders or {}) for split in SPLITS}


def splits_of_datamodule(datamodule: pl.LightningDataModule, loaders: Loaders | None = None) -> Data:
    """The data of a data module outside a run: prepared, set up, and read.

    Args:
        datamodule: Any data module; it is left as it is.
        loaders: Which of several loaders to take; by default the first.

    Returns:
        The three splits, None for one that is missing.
    """
    datamodule.prepare_data()
    return {split: _one(_from_hooks(datamodule, split), split, loaders or {}) for split in SPLITS}


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


def _one(found: Any, split: Split, loaders: Loaders) -> Any:
    found = getattr(found, "iterables", found)  # Lightning's CombinedLoader
    if not isinstance(found, list | tuple | Mapping):
        return found
    by_name = dict(found) if isinstance(found, Mapping) else dict(enumerate(found))
    if not by_name:
        return None
    known = ", ".join(map(str, by_name))
    if (chosen := loaders.get(split)) is not None:
        if chosen not in by_name:
            raise ValueError(f"The {split} loader {chosen!r} was wanted, found {known}. Choose one of these.")
        return by_name[chosen]
    first = next(iter(by_name))
    if len(by_name) > 1:
        warnings.warn(
            f"There are {len(by_name)} {split} loaders ({known}); {first!r} is probed. To choose another: "
            f"loaders.{split}=NAME, or `loaders` of the ProbeCallback.",
            stacklevel=2,
        )
    return by_name[first]
