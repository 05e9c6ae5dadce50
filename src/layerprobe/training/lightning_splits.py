"""Dataloaders of a Lightning run: its training, validation and test data."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import nn

from layerprobe.formatting import nearest
from layerprobe.probing.batches import Data, test_sets, undisturbed
from layerprobe.probing.capture.call_arguments import floating_dtype
from layerprobe.probing.capture.default_device import programs_device
from layerprobe.probing.data_adapters import named_tests, sources_of
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.types import SPLITS, Split

_STAGE: dict[Split, str] = {"train": "fit", "val": "fit", "test": "test"}


Loaders: TypeAlias = Mapping[str, int | str | Sequence[int | str] | Mapping[str, int | str] | None]
"""Which loader of a split to take where there are several: its index or its key, by split. Of test also several of
them, each a test set by its own key, or by the name that a mapping gives it."""


def splits_of_trainer(trainer: Any, module: nn.Module, loaders: Loaders | None = None) -> Data:
    """Take the data of a run that is going on.

    Training and validation data are the loaders that the run itself uses. The test loader comes from a shallow copy of
    the data module, so that its `setup("test")` leaves the one that trains alone; what the two share is put back. Of
    several loaders of a split the first is taken, unless `loaders` says which.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    found: dict[Split, Any] = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
    with undisturbed(datamodule, "datamodule"):
        own, stages = copy.copy(datamodule), list[str]()
        for split in SPLITS:
            if found.get(split) is None:
                found[split] = _from_hooks(own, split, stages) or _from_hooks(module, split, stages)
    return _chosen(found, loaders)


def splits_of(
    given: Any,
    network: nn.Module,
    *,
    seed: int = 0,
    loaders: Loaders | None = None,
    tests: Mapping[str, Any] | None = None,
) -> Data:
    """Take the data of whatever is given: a data module, or what `sources_of` takes, with further tests."""
    if is_datamodule(given):
        return with_tests(splits_of_datamodule(given, loaders), tests, network)
    if isinstance(given, Mapping) and isinstance(several := given.get("test"), Mapping):
        given = {**given, "test": _own_tests(named_tests(several))}
    return sources_of(given, tests=_own_tests(named_tests(tests or {})), seed=seed, dtype=floating_dtype(network))


def with_tests(data: Data, tests: Mapping[str, Any] | None, network: nn.Module | None = None) -> Data:
    """Add further test sets to data.

    Args:
        data: The splits.
        tests: Test sets by name: data modules, whose test split is meant, or what `sources_of` takes as one.
        network: The network that is to be called, for the type of its inputs; by default float32.

    Raises:
        ValueError: A test set has the name of another one or of a split, or its data module has no test split.
        TypeError: It is nothing that can be read.
    """
    further = named_tests(tests or {}, taken=test_sets(data))
    dtype = torch.float32 if network is None else floating_dtype(network)
    return {**data, **sources_of({}, tests=_own_tests(further), dtype=dtype)}


def _own_tests(tests: Mapping[str, Any]) -> dict[str, Any]:
    """Return the test sets with the test split of each data module in its place."""
    found = {name: splits_of_datamodule(one) if is_datamodule(one) else one for name, one in tests.items()}
    for name, own in found.items():
        if own is not tests[name]:
            if "test" not in own:
                raise ValueError(f"The data module of the test set {name!r} has no test split: it is what is read.")
            found[name] = own["test"]
    return found


def is_datamodule(given: Any) -> bool:
    """Tell whether it is a data module, of `pytorch_lightning`, `lightning` or with their methods."""
    return hasattr(given, "train_dataloader") and hasattr(given, "setup")


def splits_of_datamodule(datamodule: Any, loaders: Loaders | None = None) -> Data:
    """Take the data of a data module outside a run: prepared, set up, and read.

    The data module, of `pytorch_lightning`, `lightning` or with their methods, is left as it is.
    """
    if hasattr(datamodule, "prepare_data"):
        with programs_device():
            datamodule.prepare_data()
    with undisturbed(datamodule, "datamodule"):
        own = datamodule if isinstance(datamodule, nn.Module) else copy.copy(datamodule)
        stages: list[str] = []  # set up once, as in `Trainer.fit` and `Trainer.test`: it may read all files of a folder
        return _chosen({split: _from_hooks(own, split, stages) for split in SPLITS}, loaders)


def of_population(protocol: ProbeProtocol, owner: Any) -> ProbeProtocol:
    """Leave intervals out where the data's attribute `population` says that test is the whole population."""
    return replace(protocol, population=True) if getattr(owner, "population", False) else protocol


def is_default_hook(hook: Any) -> bool:
    """Tell whether a hook is the one that Lightning's own class has, which no other class has replaced."""
    return getattr(hook, "__module__", "").partition(".")[0] in ("pytorch_lightning", "lightning")


def _from_hooks(owner: Any, split: Split, stages: list[str]) -> Any:
    """Return the loaders of a split, of a module or of a copy of a data module that is set up for `stages`."""
    name = f"{split}_dataloader"
    hook = getattr(owner, name, None)
    if hook is None:
        return None
    own = name in vars(owner)  # as `LightningDataModule.from_datasets` leaves it
    if not own and is_default_hook(hook):
        return None
    if not isinstance(owner, nn.Module) and _STAGE[split] not in stages:
        with programs_device():
            owner.setup(_STAGE[split])
        stages.append(_STAGE[split])
    with programs_device():
        return getattr(owner, name)()


def _chosen(found: Mapping[Split, Any], loaders: Loaders | None) -> Data:
    """Choose one loader of each split that has any, and each test set that is chosen."""
    data: dict[Split, Any] = {}
    if unknown := sorted((loaders or {}).keys() - {*SPLITS}):
        raise ValueError(f"`loaders` names the split {unknown[0]!r}. {nearest(unknown[0], SPLITS)}")
    for split in SPLITS:
        chosen = (loaders or {}).get(split)
        if split == "test" and isinstance(chosen, Sequence) and not isinstance(chosen, str):
            chosen = {str(key): key for key in chosen}
        by_name = named_tests(chosen) if split == "test" and isinstance(chosen, Mapping) else {split: chosen}
        data |= {name: _one(found[split], split, key) for name, key in by_name.items()}
    return {name: source for name, source in data.items() if source is not None}


def _one(found: Any, split: Split, chosen: Any) -> Any:
    found = getattr(found, "iterables", found)  # Lightning's CombinedLoader
    if not isinstance(found, list | tuple | Mapping):
        if chosen not in (None, 0):
            raise ValueError(f"There is no {split} loader {chosen!r}, only one without a name. Leave it out.")
        return found
    by_name = dict(found) if isinstance(found, Mapping) else dict(enumerate(found))
    if not by_name:
        return None
    known = ", ".join(map(str, by_name))
    if chosen is not None:
        if chosen not in by_name:
            raise ValueError(f"There is no {split} loader {chosen!r}. Choose one of: {known}.")
        return by_name[chosen]
    first = next(iter(by_name))
    if len(by_name) > 1:
        warnings.warn(
            f"There are {len(by_name)} {split} loaders ({known}); {first!r} is probed. To choose another: "
            f"loaders.{split}=NAME, or `loaders` of the ProbeCallback"
            + ("; several of them as test sets: loaders.test=[NAME,NAME]." if split == "test" else "."),
            stacklevel=2,
        )
    return by_name[first]
