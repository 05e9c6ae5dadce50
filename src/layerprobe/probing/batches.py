"""Batches of a split: each sample once, always in the same order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing, contextmanager, suppress
from copy import copy
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from layerprobe.probing.capture.call_arguments import check_dense
from layerprobe.probing.capture.default_device import programs_device
from layerprobe.probing.capture.pytree import map_tensors, tensors
from layerprobe.probing.capture.side_effects import Snapshot, put_back
from layerprobe.types import SPLITS, Split

Source: TypeAlias = "DataLoader[Any] | tuple[Any, Tensor] | Iterable[Any]"
"""A DataLoader, a pair of (inputs, targets) with the samples along the first axis, or any iterable of batches."""

Data: TypeAlias = Mapping[Split, Source]
"""The splits. What is neither train nor val is a test set; the first one is the primary, which fills a record."""

_TARGETS = ("y", "target", "targets", "label", "labels", "label_ids")
"""What a batch often calls its targets."""

_WHOLE = (SequentialSampler, RandomSampler, DistributedSampler)


_WITHOUT_VAL = (
    " Or let leave-one-out errors on train choose, which least squares has: solver=[ridge] "
    "solver.ridge.leave_one_out=true, in Python solver=Ridge(leave_one_out=True)."
)


def check_splits(data: Mapping[Any, Any], *, needs_val: bool = True) -> None:
    """Refuse data without a training, validation or test split, and a split that can be read once only.

    Raises:
        TypeError: Naming the split that is an iterator: the first pass would take samples from the next.
        ValueError: Naming the split that is missing, or the test set that is known to be empty.
    """
    for split, source in data.items():
        if isinstance(source, Iterator):
            raise TypeError(
                f"The data of {split!r} are a {type(source).__name__}, which can be read once; probing reads a split "
                "more often. Give a list of its batches, a DataLoader, or an object whose `__iter__` starts anew."
            )
    tests = test_sets(data)
    for name in tests if len(tests) > 1 else ():
        if length(data[name]) == 0:
            raise ValueError(f"The test set {name!r} is empty. Give samples, or leave it out.")
    for split in SPLITS:
        missing = not tests if split == "test" else data.get(split) is None
        if missing and (needs_val or split != "val"):
            found = ", ".join(s for s in data if data[s] is not None) or "none"
            reason = {
                "train": "heads are fitted on it",
                "val": "the head of each layer is chosen on it, never on the test split",
                "test": "the error is read on it",
            }[split]
            raise ValueError(
                f"Probing needs the splits train, val and test ({split}: {reason}); found {found}. "
                f"Give a {split!r} DataLoader or (inputs, targets) pair, or a data module with {split}_dataloader()."
                + (_WITHOUT_VAL if split == "val" else "")
            )


def test_sets(data: Mapping[Split, Any]) -> tuple[Split, ...]:
    """Return the names of the test sets that there are, the primary one first."""
    return tuple(split for split, source in data.items() if split not in ("train", "val") and source is not None)


def split_names(data: Mapping[Split, Any]) -> tuple[Split, ...]:
    """Return the names of the splits that there are: train, val, and the test sets."""
    return *(split for split in ("train", "val") if data.get(split) is not None), *test_sets(data)


def in_order(source: Source, batch_size: int | None = None, seed: int = 0) -> Generator[Any, None, None]:
    """Read the batches of a split, without shuffling, without dropping a sample, and without leaving a trace in it.

    A DataLoader over a map-style data set is read through a loader of its own: the samples that its sampler covers, of
    a weighted one all that it may draw, in the order of the data set; one over an `IterableDataset` by one worker at
    most, so that it gives no sample twice. Anything else is iterated as it is, and put back when the last batch has
    been read or the iterator is closed (see `undisturbed`).

    Args:
        source: The split.
        batch_size: Samples at a time; by default the loader's own, or 256.
        seed: Seed of the workers' random draws.
    """
    return _read(source, batch_size, seed, None)


def reshuffled(source: Source, batch_size: int | None = None, seed: int = 0) -> Generator[Any, None, None]:
    """Read the samples of a split, each once, in an order drawn from a seed.

    Args:
        source: The split; where it is neither a DataLoader over a map-style data set nor a pair, its own order is kept.
        batch_size: As for `in_order`.
        seed: Seed of the order.
    """
    return _read(source, batch_size, seed, torch.Generator().manual_seed(seed))


def reads_again(source: Any) -> bool:
    """Tell whether a split gives its samples each time it is read, as a pair or a map-style data set's loader does."""
    return _is_pair(source) or (isinstance(source, DataLoader) and not _as_it_is(source))


def length(source: Source) -> int | None:
    """Count the samples that `in_order` gives, without reading any; None where nothing says so.

    Where a sampler draws some samples more than once, it is more than that.
    """
    if _is_pair(source):
        return len(source[1])
    if not isinstance(source, DataLoader) or _as_it_is(source):
        return None
    sampler = getattr(source.batch_sampler, "sampler", None) if source.batch_size is None else source.sampler
    counted = (source.dataset,) if isinstance(sampler, (*_WHOLE, WeightedRandomSampler)) else (source.dataset, sampler)
    lengths = [len(part) for part in counted if isinstance(part, Sized)]
    return min(lengths) if len(lengths) == len(counted) else None


def n_samples(source: Source) -> int:
    """Count the samples that `in_order` gives; what cannot be counted otherwise is read through."""
    if _is_pair(source):
        return len(source[1])
    if isinstance(source, DataLoader) and not _as_it_is(source):
        with undisturbed(source):
            return len(_reader(source, None, 0).sampler)  # type: ignore[arg-type]
    with closing(in_order(source)) as batches:
        return sum(_size(batch) for batch in batches)


@contextmanager
def undisturbed(source: Any, name: str = "data") -> Iterator[None]:
    """Leave a source of data as it was: positions, random generators, caches, of its data set, sampler and collation.

    What has changed and cannot be put back is named in a warning. Large arrays are shared, not copied.
    """
    snapshot = Snapshot(source, name, each=1024**2, total=64 * 1024**2)
    try:
        yield
    finally:
        put_back(snapshot)


def _is_pair(source: Any) -> TypeGuard[tuple[Any, Tensor]]:
    return isinstance(source, tuple | list) and len(source) == 2 and isinstance(source[1], Tensor)


def _size(batch: Any) -> int:
    first = tensors(batch)[:1]
    while not first and isinstance(batch, Mapping | tuple | list):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return len(first[0] if first else batch)


def _read(
    source: Source, batch_size: int | None, seed: int, shuffle: torch.Generator | None
) -> Generator[Any, None, None]:
    if _is_pair(source):
        inputs, targets = source
        size = batch_size or 256
        order = None if shuffle is None else torch.randperm(len(targets), generator=shuffle)
        for start in range(0, len(targets), size):
            part = slice(start, start + size) if order is None else order[start : start + size]
            yield samples_of(inputs, part, len(targets)), targets[part]
        return
    with undisturbed(source):
        # As training loads: a data set may keep what it makes, and train with it later.
        iterator: Iterator[Any]
        with torch.inference_mode(False), torch.enable_grad():
            if isinstance(source, DataLoader):  # which draws a seed for its workers from a generator of the CPU
                iterator = iter(_reader(source, batch_size, seed, shuffle))
            else:
                with programs_device():
                    iterator = iter(source)
        while True:
            with torch.inference_mode(False), torch.enable_grad(), programs_device():
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            yield batch


def _as_it_is(loader: DataLoader[Any]) -> bool:
    """Tell whether a loader's own batches are read, for want of samples to make batches of."""
    return isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None


def _reader(
    loader: DataLoader[Any], batch_size: int | None, seed: int, shuffle: torch.Generator | None = None
) -> DataLoader[Any]:
    dataset: Dataset[Any] = loader.dataset
    generator = torch.Generator().manual_seed(seed)
    if _as_it_is(loader):
        # A copy: the workers of the loader itself may be in the middle of an epoch, which they would leave.
        reader = copy(loader)
        vars(reader).update(generator=generator, persistent_workers=False, _iterator=None)
        if isinstance(dataset, IterableDataset):  # each of several would give every sample that it does not leave out
            vars(reader).update(num_workers=min(1, loader.num_workers))
        return reader
    sampler: Any = loader.sampler
    size = batch_size or loader.batch_size
    if loader.batch_size is None:
        batches: Any = loader.batch_sampler
        sampler = getattr(batches, "sampler", None) or [i for batch in batches for i in batch]
        size = size or getattr(batches, "batch_size", 256)
    order: Sequence[int] | None
    if isinstance(sampler, WeightedRandomSampler):
        order = sampler.weights.nonzero().flatten().tolist()
    else:
        order = None if isinstance(sampler, _WHOLE) else sorted({int(i) for i in sampler})
    if shuffle is not None:
        order = range(len(dataset)) if order is None else order  # type: ignore[arg-type]
        order = [order[i] for i in torch.randperm(len(order), generator=shuffle).tolist()]
    return DataLoader(
        dataset,
        batch_size=size,
        sampler=order,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=generator,
    )


def samples_of(inputs: Any, part: slice | Tensor, n: int) -> Any:
    """Take some of n samples: of every tensor with n along its first axis, however deep it lies."""

    def cut(tensor: Tensor) -> Tensor:
        if not tensor.ndim or len(tensor) != n:
            return tensor
        check_dense(tensor)
        return tensor[part]

    return map_tensors(inputs, cut)


def inputs_of(batch: Any) -> Any:
    """Return the first part of an (input, target) batch."""
    return _pair(batch)[0]


def targets_of(batch: Any) -> Any:
    """Return the second part of an (input, target) batch."""
    return _pair(batch)[1]


def _pair(batch: Any) -> Sequence[Any]:
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch
    found, names = f"a {type(batch).__name__}", list[str | int]()
    if isinstance(batch, tuple | list):
        found, names = f"{found} of {len(batch)} parts", list(range(len(batch)))
    elif isinstance(batch, Tensor):
        found += f" of shape {tuple(batch.shape)}"
    elif names := _names(batch):
        found += f" with {'the keys ' if isinstance(batch, Mapping) else ''}{', '.join(map(str, names))}"
    such = ""
    if len(names) > 1:
        target = next((name for name in names if str(name).lower() in _TARGETS), names[1])
        such = f", such as inputs=layerprobe.Item({names[0]!r}), targets=layerprobe.Item({target!r})"
    raise TypeError(
        f"Probing reads batches of (input, target), found {found}. "
        f"Let the loader give such pairs, or say with `inputs` and `targets` how to take a batch apart{such}."
    )


def _names(batch: Any) -> list[str | int]:
    """List the keys of a mapping, or of an object that has some, such as a batch of graphs; else its attributes."""
    keys = getattr(batch, "keys", None)
    with suppress(TypeError):
        return list(keys() if callable(keys) else keys)  # type: ignore[arg-type]
    return [name for name in getattr(batch, "__dict__", ()) if not name.startswith("_")]


Take: TypeAlias = Callable[[Any], Any]
"""Takes the inputs or the targets out of a batch."""
