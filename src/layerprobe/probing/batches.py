"""Read the samples of a split: each once, always in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from layerprobe.probing.nesting import map_tensors, tensors
from layerprobe.types import SPLITS, Split

Source: TypeAlias = "DataLoader[Any] | tuple[Any, Tensor] | Iterable[Any]"
"""A DataLoader, a pair of (inputs, targets) with the samples along the first axis, or any iterable of batches."""

Data: TypeAlias = Mapping[Split, Source]

_WHOLE = (SequentialSampler, RandomSampler, DistributedSampler)


def check_splits(data: Mapping[Any, Any], *, chooses: bool = True) -> None:
    """Refuse data without a training, validation or test split.

    Args:
        data: The splits.
        chooses: Whether one of several heads is chosen, for which there has to be a validation split.

    Raises:
        ValueError: Naming the split that is missing.
    """
    for split in SPLITS:
        if data.get(split) is None and (chooses or split != "val"):
            found = ", ".join(s for s in SPLITS if data.get(s) is not None) or "none"
            reason = {
                "train": "heads are fitted on it",
                "val": "the head of each layer is chosen on it, never on the test split",
                "test": "the error is read on it",
            }[split]
            raise ValueError(
                f"Probing needs the splits train, val and test ({split}: {reason}); found {found}. "
                f"Give a {split!r} DataLoader or (inputs, targets) pair, or a data module with {split}_dataloader()."
            )


def in_order(source: Source, batch_size: int | None = None, seed: int = 0) -> Iterator[Any]:
    """The batches of a split, without shuffling, without dropping a sample, and without touching a sampler's state.

    A DataLoader over a map-style data set is read through a loader of its own: the samples that its sampler covers,
    in the order of the data set. Anything else is iterated as it is.

    Args:
        source: The split.
        batch_size: Samples at a time; by default the loader's own, or 256.
        seed: Seed of the workers' random draws.

    Returns:
        The batches.
    """
    batches: Iterable[Any] = source
    if isinstance(source, DataLoader):
        batches = _reader(source, batch_size, seed)
    elif isinstance(source, tuple | list) and len(source) == 2 and isinstance(source[1], Tensor):
        batches = _slices(source[0], source[1], batch_size or 256)
    return _ordinary(batches)


def reshuffled(source: Source, batch_size: int | None = None, seed: int = 0) -> Iterator[Any]:
    """The samples of a split, each once, in an order drawn from a seed.

    Args:
        source: The split; where it is neither a DataLoader over a map-style data set nor a pair, its own order is kept.
        batch_size: As for `in_order`.
        seed: Seed of the order.

    Returns:
        The batches.
    """
    generator = torch.Generator().manual_seed(seed)
    batches: Iterable[Any] = source
    if isinstance(source, DataLoader):
        batches = _reader(source, batch_size, seed, generator)
    elif isinstance(source, tuple | list) and len(source) == 2 and isinstance(source[1], Tensor):
        order = torch.randperm(len(source[1]), generator=generator)
        size, n = batch_size or 256, len(source[1])
        batches = ((_take(source[0], rows, n), source[1][rows]) for rows in order.split(size))
    return _ordinary(batches)


def n_samples(source: Source) -> int:
    """Count the samples that `in_order` gives; what cannot be counted otherwise is read through.

    Args:
        source: The split.
    """
    if isinstance(source, tuple | list) and len(source) == 2 and isinstance(source[1], Tensor):
        return len(source[1])
    reader = _reader(source, None, 0) if isinstance(source, DataLoader) else source
    if isinstance(reader, DataLoader) and reader is not source:
        return len(reader.sampler)  # type: ignore[arg-type]
    return sum(_size(batch) for batch in _ordinary(reader))


def _size(batch: Any) -> int:
    first = tensors(batch)[:1]
    while not first and isinstance(batch, Mapping | tuple | list):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return len(first[0] if first else batch)


def _ordinary(batches: Iterable[Any]) -> Iterator[Any]:
    """Load outside inference mode: a data set may keep what it makes, and train with it later."""
    with torch.inference_mode(False):
        iterator = iter(batches)
    while True:
        with torch.inference_mode(False):
            try:
                batch = next(iterator)
            except StopIteration:
                return
        yield batch


def _reader(
    loader: DataLoader[Any], batch_size: int | None, seed: int, shuffle: torch.Generator | None = None
) -> Iterable[Any]:
    dataset: Dataset[Any] = loader.dataset
    if isinstance(dataset, IterableDataset) or loader.batch_sampler is None:
        return loader
    sampler: Any = loader.sampler
    size = batch_size or loader.batch_size
    if loader.batch_size is None:
        sampler = getattr(loader.batch_sampler, "sampler", None) or [i for batch in loader.batch_sampler for i in batch]
        size = size or getattr(loader.batch_sampler, "batch_size", 256)
    order: Sequence[int] | None = None if isinstance(sampler, _WHOLE) else sorted(set(_peek(sampler)))
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
        generator=torch.Generator().manual_seed(seed),
    )


def _peek(sampler: Iterable[int]) -> list[int]:
    """The samples that a sampler covers, its generator put back."""
    generator = getattr(sampler, "generator", None)
    state = generator.get_state() if generator is not None else None
    try:
        return [int(i) for i in sampler]
    finally:
        if generator is not None:
            generator.set_state(state)


def _slices(inputs: Any, targets: Tensor, size: int) -> Iterator[tuple[Any, Tensor]]:
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        yield _take(inputs, part, len(targets)), targets[part]


def _take(inputs: Any, part: slice | Tensor, n: int) -> Any:
    """Some of n samples: of every tensor with n along its first axis, however deep it lies."""
    return map_tensors(inputs, lambda tensor: tensor[part] if tensor.ndim and len(tensor) == n else tensor)


def inputs_of(batch: Any) -> Any:
    """The first part of an (input, target) batch."""
    return _pair(batch)[0]


def targets_of(batch: Any) -> Any:
    """The second part of an (input, target) batch."""
    return _pair(batch)[1]


def _pair(batch: Any) -> Sequence[Any]:
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch
    found = f"a {type(batch).__name__}"
    if isinstance(batch, tuple | list):
        found += f" of {len(batch)} parts"
    elif isinstance(batch, Mapping):
        found += f" with the keys {', '.join(map(str, batch))}"
    elif isinstance(batch, Tensor):
        found += f" of shape {tuple(batch.shape)}"
    raise TypeError(
        f"Probing reads batches of (input, target), found {found}. "
        "Let the loader give such pairs, or say with `inputs` and `targets` how to take a batch apart."
    )


def class_indices(targets: Any, split: Split) -> Int[Tensor, " n"]:
    """Check that targets are class indices.

    Args:
        targets: What the batch calls its targets.
        split: Where they come from, for the error.

    Returns:
        The targets as int64 on the CPU; numbers such as 1.0 and a column (n, 1) are taken too.

    Raises:
        TypeError: Where they are not one non-negative integer for each sample.
    """
    found, example = f"a {type(targets).__name__}", ""
    if isinstance(targets, Tensor):
        found = f"{str(targets.dtype).removeprefix('torch.')} of shape {tuple(targets.shape)}"
        values = targets.detach().cpu()
        if values.ndim == 2 and values.shape[1] == 1:
            values = values.squeeze(1)
        if values.ndim == 1 and not values.is_complex():
            indices = values.to(torch.int64)
            if not len(indices) or (indices.min() >= 0 and torch.equal(indices.to(values.dtype), values)):
                return indices
            wrong = values[(indices < 0) | (indices.to(values.dtype) != values)][0].item()
            if wrong < 0 or not values.is_floating_point():
                found = f"the negative value {wrong}"
            else:
                example = f", such as {wrong:.6g}"
    raise TypeError(
        f"Probing needs class indices as targets (one integer >= 0 for each sample), found {found} in the {split} "
        f"split{example}. Map the batch to its class with `targets=lambda batch: …`, or choose the task: "
        "task=regression for numbers, task=multi_label for rows of zeros and ones. Words are taken of "
        "(inputs, targets) pairs alone."
    )


Take: TypeAlias = Callable[[Any], Any]
"""Takes the inputs or the targets out of a batch."""
