"""Controls: what a test error has to be compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import starmap
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from layerprobe.probing.capture.pytree import named_tensors

CONTROLS = ("shuffled", "control_task")
"""`shuffled`: labels without any order, a check of leakage. `control_task`: a random label for each type."""


def majority_error(train_targets: Int[Tensor, " n"], test_targets: Int[Tensor, " m"]) -> float:
    """Measure the test error of always answering the most frequent training class (the smallest one of several)."""
    majority = torch.bincount(train_targets[train_targets >= 0]).argmax()
    return (test_targets != majority).double().mean().item()


def shuffled(targets: Shaped[Tensor, "n ..."], seed: int) -> Shaped[Tensor, "n ..."]:
    """Give each of the same labels to another sample at random.

    There is nothing in them to be learnt, on test either: the error of heads that are fitted to them is that of chance,
    whatever they memorise. A lower one means that something leaks from test into the fit.
    """
    generator = torch.Generator().manual_seed(seed)
    return targets[torch.randperm(len(targets), generator=generator).to(targets.device)]


def by_type(train_targets: Shaped[Tensor, "n ..."], keys: Int[Tensor, " m"], seed: int) -> Shaped[Tensor, "m ..."]:
    """Draw random labels, one for all samples of a type: the control task of Hewitt & Liang (2019).

    A type's label is that of a training sample drawn for it, so labels are as frequent as on train. It depends on
    nothing but the type and the seed, and so is the same on every split: a head finds it as far as it can memorise the
    types. Its test error less that of the task is the selectivity.

    Args:
        train_targets: Training targets of any kind, samples first.
        keys: The type of each sample of a split; see `type_keys`.
        seed: Seed of the labels.
    """
    mixed = keys.numpy().astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64 (Steele et al., 2014)
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    drawn = (mixed ^ (mixed >> np.uint64(31))) % np.uint64(len(train_targets))
    return train_targets[torch.from_numpy(drawn.astype(np.int64)).to(train_targets.device)]


def type_keys(values: Any, masks: Mapping[str, Tensor] = MappingProxyType({})) -> Int[Tensor, " n"]:
    """Name the type of each sample of a batch by a hash of 64 bits: samples with the same values are of one type.

    Args:
        values: Tensors or arrays with the samples first, nested as the inputs of a network are; or a list of words or
            numbers, one for each sample.
        masks: Which places of a sequence hold a token, (n, t), by where the sequence is among the values. What stands
            at the others does not count.

    Raises:
        TypeError: Where the values are none of these.
    """
    if isinstance(values, np.ndarray):
        values = values.tolist() if values.dtype.kind in "USO" else torch.from_numpy(values)
    if isinstance(values, list | tuple) and values and all(isinstance(v, str | int | float) for v in values):
        return _packed(hashlib.blake2b(repr(value).encode(), digest_size=8) for value in values)
    named = [(".".join(path), part.detach().cpu()) for path, part in named_tensors(values, state=True) if part.ndim]
    parts = [(name, part) for name, part in named if len(part) == len(named[0][1])]
    if not parts:
        raise TypeError(
            f"The control task needs a type for each sample, found a {type(values).__name__}. Take a tensor or a list "
            "of words out of the batch with `control_key`, such as control_key=Column(0, path=1)."
        )

    def rows(name: str, part: Tensor) -> Iterator[bytes]:
        if part.is_floating_point():
            part = part + 0.0  # -0 is 0
        held = masks[name].cpu().bool() if name in masks else None
        for i, row in enumerate(part):
            kept = row if held is None else row[held[i]]
            yield kept.contiguous().view(-1).view(torch.uint8).numpy().tobytes()

    def hashed() -> Iterator[Any]:
        for row in zip(*starmap(rows, parts), strict=True):
            found = hashlib.blake2b(digest_size=8)
            for piece in row:
                found.update(piece)
            yield found

    return _packed(hashed())


def _packed(hashes: Iterator[Any]) -> Int[Tensor, " n"]:
    return torch.from_numpy(np.frombuffer(b"".join(found.digest() for found in hashes), dtype=np.int64).copy())
