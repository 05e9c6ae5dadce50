"""Collectives: what the processes of one run agree on, without the accelerator and without a time limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")

# A process may probe for hours while the others wait; NCCL's own collectives give up after minutes.
_PATIENCE = timedelta(days=30)


@contextmanager
def leaving() -> Iterator[None]:
    """Part from the other processes at the end: gloo's threads abort a process that ends with them still running."""
    try:
        yield
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


class Ranks:
    """The processes of a run; one alone agrees with itself.

    Messages go through gloo, on the CPU: agreeing once a batch never waits for a GPU's queue.

    Every process makes it at the same point.
    """

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE) if several else None
        # What is swapped must not be taken for a message, which threads of their own may be waiting for.
        self._swaps: Any = dist.new_group(backend="gloo", timeout=_PATIENCE) if several else None
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def highest(self, value: int) -> int:
        """Return the highest of the processes' values."""
        if self._group is None:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return int(tensor)

    def from_first(self, value: T) -> T:
        """Return the first process's value."""
        if self._group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def everyones(self, value: T) -> list[T]:
        """Return all processes' values, in the order of their ranks."""
        if self._group is None:
            return [value]
        found: list[T | None] = [None] * self.size
        dist.all_gather_object(found, value, group=self._group)
        return found  # type: ignore[return-value]

    def send(self, value: Any, to: int) -> None:
        """Send a value, which is pickled, to another process, which waits for it with `receive`."""
        dist.send_object_list([value], dst=to, group=self._group)

    def receive(self, sender: int) -> Any:
        """Wait for the next value that another process sends.

        Raises:
            RuntimeError: Where that process has ended.
        """
        box = [None]
        dist.recv_object_list(box, src=sender, group=self._group)
        return box[0]

    def swap(self, given: Mapping[int, Tensor]) -> tuple[dict[int, Tensor], set[int]]:
        """Give bytes, on the CPU, to other processes, and get some from each of them, which calls it too.

        Each pair of processes talks by itself, so that every process notices when one has ended.

        Returns:
            What each of them gives, and the ranks that have ended.
        """
        ended: set[int] = set()
        sizes = {rank: torch.empty(1, dtype=torch.int64) for rank in given}
        self._pass({rank: torch.tensor([value.numel()]) for rank, value in given.items()}, sizes, ended)
        found = {rank: torch.empty(int(size), dtype=torch.uint8) for rank, size in sizes.items() if rank not in ended}
        self._pass(given, found, ended)
        return {rank: data for rank, data in found.items() if rank not in ended}, ended

    def _pass(self, given: Mapping[int, Tensor], found: Mapping[int, Tensor], ended: set[int]) -> None:
        """Send and receive; what goes to and comes from processes that live on goes on where another has ended."""
        calls = [(rank, partial(dist.irecv, value, rank, self._swaps)) for rank, value in found.items()]
        calls += [(rank, partial(dist.isend, given[rank], rank, self._swaps)) for rank in found]
        works: list[tuple[int, Any]] = []
        for rank, call in calls:
            try:
                works.append((rank, call()))
            except RuntimeError:
                ended.add(rank)
        for rank, work in works:
            try:
                work.wait()
            except RuntimeError:
                ended.add(rank)

    @contextmanager
    def as_first(self, network: nn.Module) -> Iterator[None]:
        """Let every process's network have the first one's parameters and buffers, inside.

        Distributed training keeps parameters equal, and buffers only while a network is called: each process goes on
        with the averages of batch normalisation that its own last batch has led to. Afterwards this process's network
        is bit for bit as before.
        """
        own: list[tuple[Tensor, Tensor]] = []
        try:
            for tensor in (*network.parameters(), *network.buffers()) if self.size > 1 else ():
                value = tensor.detach().cpu().contiguous()
                bits = value.reshape(-1).view(torch.uint8).clone()
                dist.broadcast(bits, src=0, group=self._group)
                if not torch.equal(bits, value.reshape(-1).view(torch.uint8)):
                    own.append((tensor, tensor.detach().clone()))
                    tensor.data.copy_(bits.view(value.dtype).reshape(value.shape))
            yield
        finally:
            for tensor, value in own:
                tensor.data.copy_(value)
