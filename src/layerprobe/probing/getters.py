"""Getters: take the network's inputs, or the property to be probed, out of a batch of any structure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

ItemPath: TypeAlias = int | str
"""Where something is in a batch: an index, a key or an attribute, or several with dots between, such as "1.age"; or "."
for the batch itself."""


class AbstractTake(ABC):
    """Takes one thing out of a batch."""

    @abstractmethod
    def __call__(self, batch: Any) -> Any:
        """Take it."""


@final
@dataclass(frozen=True)
class Item(AbstractTake):
    """One item.

    Attributes:
        path: Where it is.
    """

    path: ItemPath

    def __call__(self, batch: Any) -> Any:
        """See `AbstractTake.__call__`."""
        return _at(batch, self.path)


@final
@dataclass(frozen=True)
class Items(AbstractTake):
    """Several items, as the arguments of a network.

    Attributes:
        paths: Where they are: a mapping for keyword arguments, a list for positional ones.
    """

    paths: Mapping[str, ItemPath] | Sequence[ItemPath]

    def __call__(self, batch: Any) -> Any:
        """See `AbstractTake.__call__`."""
        if isinstance(self.paths, Mapping):
            return {name: _at(batch, path) for name, path in self.paths.items()}
        return tuple(_at(batch, path) for path in self.paths)


@final
@dataclass(frozen=True)
class Column(AbstractTake):
    """Some columns of a table, such as of metadata.

    Attributes:
        index: The column, which gives one value for each sample; or several, which give a row.
        path: Where the table is, samples first.
    """

    index: int | Sequence[int]
    path: ItemPath = 1

    def __call__(self, batch: Any) -> Tensor:
        """See `AbstractTake.__call__`."""
        table = torch.as_tensor(_at(batch, self.path))
        wanted = [self.index] if isinstance(self.index, int) else list(self.index)
        if table.ndim != 2 or not all(-table.shape[1] <= index < table.shape[1] for index in wanted):
            raise ValueError(
                f"Item {self.path!r} of the batch has no column {self.index}, found shape {tuple(table.shape)}. "
                "Give a table of samples by columns and a column that it has."
            )
        return table[:, self.index if isinstance(self.index, int) else wanted]


@final
@dataclass(frozen=True)
class Tokens(AbstractTake):
    """Some tokens of each text, as one word: what tells the types of the control task apart for heads on tokens.

    Padding does not count on either side, special tokens such as `[SEP]` do.

    Attributes:
        start: The first token that is taken; from the end where it is negative.
        stop: The first one after it that is not; by default all are.
        path: Where the tokenizer's outputs are: `input_ids` (samples, tokens), and `attention_mask` where there is one.
    """

    start: int = -1
    stop: int | None = None
    path: ItemPath = 0

    def __call__(self, batch: Any) -> list[str]:
        """See `AbstractTake.__call__`."""
        found = _at(batch, self.path)
        if not isinstance(found, Mapping) or "input_ids" not in found:
            raise ValueError(
                f"Item {self.path!r} of the batch has no `input_ids`, found a {type(found).__name__}. Say with `path` "
                "where the tokenizer's outputs are, or take the types of the control task from elsewhere."
            )
        ids = torch.as_tensor(found["input_ids"])
        masks = torch.as_tensor(found.get("attention_mask", torch.ones_like(ids))).bool()
        rows = zip(ids, masks, strict=True)
        return [" ".join(map(str, row[mask][self.start : self.stop].tolist())) for row, mask in rows]


@final
@dataclass(frozen=True)
class Parity(AbstractTake):
    """Whether an integer target is even (0) or odd (1).

    Attributes:
        path: Where the target is.
    """

    path: ItemPath = 1

    def __call__(self, batch: Any) -> Tensor:
        """See `AbstractTake.__call__`."""
        return torch.as_tensor(_at(batch, self.path)) % 2


@final
@dataclass(frozen=True)
class Lookup(AbstractTake):
    """The entry of a table for each class: a coarser class, a number, a row of labels.

    Attributes:
        values: One entry for each class index.
        path: Where the class index is.
    """

    values: Sequence[Any]
    path: ItemPath = 1

    def __call__(self, batch: Any) -> Tensor:
        """See `AbstractTake.__call__`."""
        indices = torch.as_tensor(_at(batch, self.path))
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self.values):
            raise ValueError(
                f"The table of targets has {len(self.values)} entries, found the class {int(indices.max())}. "
                "Give one entry for each class: targets.values=[…]."
            )
        return torch.tensor([list(v) if isinstance(v, Sequence) else v for v in self.values])[indices.cpu()]


def _at(batch: Any, path: ItemPath) -> Any:
    found = batch
    for step in () if path == "." else str(path).split("."):
        try:
            found = _step(found, step)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            if isinstance(found, Mapping):
                here = f"the keys {', '.join(map(str, found))}"
            elif isinstance(found, list | tuple):
                here = f"{len(found)} items"
            else:
                here = f"a {type(found).__name__}"
            raise ValueError(
                f"The batch has no item {path!r}, found {here} in place of {step!r}. "
                "Say with `inputs` and `targets` where things are, such as inputs.path=image."
            ) from error
    return found


def _step(found: Any, step: str) -> Any:
    if isinstance(found, Mapping) and step in found:
        return found[step]
    return getattr(found, step) if step.isidentifier() and hasattr(found, step) else found[int(step)]
