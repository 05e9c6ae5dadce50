"""Collectives: what the processes of one run agree on, without the accelerator and without a time limit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

# The first process may probe for hours while the others wait; NCCL's own collectives give up after minutes.
_PATIENCE = timedelta(days=30)


def leave() -> None:
    """Part from the other processes at the end: gloo's threads abort a process that ends with them still running."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class Ranks:
    """The processes of a run; one alone agrees with itself.

    Messages go through gloo, on the CPU: agreeing once a batch never waits for a GPU's queue.
    """

    def __init__(self) -> None:
        """Join the others; every process calls it at the same point."""
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE) if several else None

    def highest(self, value: int) -> int:
        """The highest of the processes' values.

        Args:
            value: This process's own.
        """
        if self._group is None:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return int(tensor)

    def from_first(self, value: T) -> T:
        """The first process's value.

        Args:
            value: This process's own; of no effect but on the first.
        """
        if self._group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def everyones(self, value: T) -> list[T]:
        """All processes' values, in the order of their ranks.

        Args:
            value: This process's own.
        """
        if self._group is None:
            return [value]
        found: list[T | None] = [None] * dist.get_world_size()
        dist.all_gather_object(found, value, group=self._group)
        return found  # type: ignore[return-value]
