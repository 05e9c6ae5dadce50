"""Dataloaders of a Lightning run: its training, validation and test data."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from torch import nn

from layerprobe.probing.batches import Data, undisturbed
from layerprobe.probing.capture.call_arguments import floating_dtype
from layerprobe.probing.data_adapters import sources_of
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.types import SPLITS, Split

_LIGHTNING = ("pytorch_lightning", "lightning")
_STAGE: dict[Split, str] = {"train": "fit", "val": "fit", "test": "test"}


Loaders: TypeAlias = Mapping[str, int | str | None]
"""Which loader of a split to take where there are several: its index or its key, by split."""


def splits_of_trainer(trainer: Any, module: nn.Module, loaders: Loaders | None = None) -> Data:
    """The data of a run that is going on.

    Training and validation data are the loaders that the run itself uses. The test loader comes from a shallow copy of
    the data module, so that its `setup("test")` leaves the one that trains alone; what the two share is put back.

    Args:
        trainer: A trainer inside `fit`.
        module: Its module.
        loaders: Which of several loaders to take; by default the first.

    Returns:
        The three splits, None for one that is missing.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    found: dict[Split, Any] = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
    with undisturbed(datamodule, "datamodule"):
        for split in SPLITS:
            if found.get(split) is None:
                found[split] = _from_hooks(datamodule, split) or _from_hooks(module, split)
    return {split: _one(found[split], split, loaders or {}) for split in SPLITS}


def splits_of(given: Any, network: nn.Module, *, seed: int = 0, loaders: Loaders | None = None) -> Data:
    """The data of whatever may be given as such.

    Args:
        given: A data module, or what `sources_of` takes.
        network: The network that is to be called, for the type of its inputs.
        seed: As for `sources_of`.
        loaders: As for `splits_of_datamodule`.
    """
    if hasattr(given, "train_dataloader") and hasattr(given, "setup"):
        return splits_of_datamodule(given, loaders)
    return sources_of(given, seed=seed, dtype=floating_dtype(network))


def splits_of_datamodule(datamodule: Any, loaders: Loaders | None = None) -> Data:
    """The data of a data module outside a run: prepared, set up, and read.

    Args:
        datamodule: Any data module, of `pytorch_lightning`, `lightning` or with their methods; it is left as it is.
        loaders: Which of several loaders to take; by default the first.

    Returns:
        The three splits, None for one that is missing.
    """
    if hasattr(datamodule, "prepare_data"):
        datamodule.prepare_data()
    with undisturbed(datamodule, "datamodule"):
        return {split: _one(_from_hooks(datamodule, split), split, loaders or {}) for split in SPLITS}


def of_population(protocol: ProbeProtocol, owner: Any) -> ProbeProtocol:
    """Leave intervals out where a data module says that its test split is the whole population.

    Args:
        protocol: The sweep.
        owner: What gives the data; its attribute `population` says so.

    Returns:
        The sweep for these data.
    """
    return replace(protocol, population=True) if getattr(owner, "population", False) else protocol


def _from_hooks(owner: Any, split: Split) -> Any:
    name = f"{split}_dataloader"
    hook = getattr(owner, name, None)
    if hook is None:
        return None
    own = name in vars(owner)  # as `LightningDataModule.from_datasets` leaves it
    if not own and getattr(hook, "__module__", "").partition(".")[0] in _LIGHTNING:
        return None
    if not isinstance(owner, nn.Module):  # a data module: what `setup` sets is left out of the one that trains
        owner = copy.copy(owner)
        owner.setup(_STAGE[split])
    return getattr(owner, name)()


def _one(found: Any, split: Split, loaders: Loaders) -> Any:
    found = getattr(found, "iterables", found)  # Lightning's CombinedLoader
    if not isinstance(found, list | tuple | Mapping):
        if loaders.get(split) not in (None, 0):
            raise ValueError(f"There is no {split} loader {loaders[split]!r}, only one without a name. Leave it out.")
        return found
    by_name = dict(found) if isinstance(found, Mapping) else dict(enumerate(found))
    if not by_name:
        return None
    known = ", ".join(map(str, by_name))
    if (chosen := loaders.get(split)) is not None:
        if chosen not in by_name:
            raise ValueError(f"There is no {split} loader {chosen!r}. Choose one of: {known}.")
        return by_name[chosen]
    first = next(iter(by_name))
    if len(by_name) > 1:
        warnings.warn(
            f"There are {len(by_name)} {split} loaders ({known}); {first!r} is probed. To choose another: "
            f"loaders.{split}=NAME, or `loaders` of the ProbeCallback.",
            stacklevel=2,
        )
    return by_name[first]
