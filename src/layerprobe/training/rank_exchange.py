"""Exchange of recorded batches between the ranks of a run: each runs its share, and sends features to who fits them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from layerprobe.probing.features.cache import Key
from layerprobe.probing.parallel.exchange import AbstractExchange, BatchFindings
from layerprobe.training.collectives import Ranks
from layerprobe.types import LayerName, Split

_HEADER = 8
"""Bytes that say how long the pickled part of a message is."""


class OtherProcessError(RuntimeError):
    """Probing has failed in another process of the run."""


class OthersHaveLeft(Exception):
    """Another process has left the recording, whether by an error or a signal; the team knows why."""


@dataclass(frozen=True)
class _Message:
    """What a process says to another one at the end of a round.

    Attributes:
        at: The split, and how many samples of it have been read; equal in all.
        first: See `AbstractExchange.decide`.
        leaves: Whether the process takes part no longer.
        found: What its batch has led to but for the features, None where it has run none.
        layout: Key, shape, type and kind of device of the features that follow.
    """

    at: tuple[Split, int] = ("", 0)
    first: str = ""
    leaves: bool = False
    found: BatchFindings | None = None
    layout: tuple[tuple[Key, torch.Size, torch.dtype, str], ...] = ()


class RankExchange(AbstractExchange):
    """Shares batches out among the ranks of a run, each round in as many messages as there are pairs of ranks.

    A process that leaves, by an error or a signal, says so at the end of the round that the others are at; they leave
    with `OthersHaveLeft`, so that none waits for a batch that nobody runs.

    Args:
        ranks: All processes of the run, each of which fits layers.
        owner: The rank that fits each layer.
        device: Where this process's network is; None where it has no parameters.
    """

    def __init__(self, ranks: Ranks, owner: Mapping[LayerName, int], device: torch.device | None) -> None:
        self.size, self.shares = ranks.size, None
        self._ranks, self._owner, self._device = ranks, owner, device
        self._is_over = False

    def __enter__(self) -> RankExchange:
        return self

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        if isinstance(error, Exception) and not self._is_over:
            with suppress(OthersHaveLeft, OtherProcessError):
                self._swap(_Message(leaves=True))

    def decide(self, first: str) -> None:
        """See `AbstractExchange.decide`."""
        said = self._swap(_Message(first=first))
        self.shares = first != "" and all(message.first == first for message, _ in said.values())
        self._swap(_Message(), last=not self.shares)  # in which one that has missed an ended process says so
        self._is_over = not self.shares

    def owns(self, layer: LayerName) -> bool:
        """See `AbstractExchange.owns`."""
        return self._owner[layer] == self._ranks.rank

    def runs(self, i: int) -> bool:
        """See `AbstractExchange.runs`."""
        return i == self._ranks.rank

    def swap(self, own: BatchFindings | None, split: Split, n: int) -> list[BatchFindings]:
        """See `AbstractExchange.swap`.

        Raises:
            OthersHaveLeft: Where another process has.
            OtherProcessError: Where another process has read another number of samples.
        """
        own = own or BatchFindings()
        said = self._swap(_Message((split, n), found=replace(own, features=[])), own.features)
        own.features = [(key, rows) for key, rows in own.features if self.owns(key[0])]
        of_rank = {self._ranks.rank: own}
        for rank, (message, data) in said.items():
            assert message.found is not None
            of_rank[rank] = replace(message.found, features=self._unpacked(message, data))
        return [of_rank[rank] for rank in range(self.size)]

    def finish(self) -> None:
        """See `AbstractExchange.finish`."""
        if not self._is_over:
            self._swap(_Message(), last=True)
            self._is_over = True

    def _swap(
        self, message: _Message, features: list[tuple[Key, Tensor]] | None = None, *, last: bool = False
    ) -> dict[int, tuple[_Message, Tensor]]:
        """Say the same to all, and give each the features of its own layers."""
        given: dict[int, Tensor] = {}
        for rank in range(self.size):
            if rank != self._ranks.rank:
                theirs = [(key, rows) for key, rows in features or () if self._owner[key[0]] == rank]
                given[rank] = _packed(message, theirs)
        received, ended = self._ranks.swap(given)
        found = {rank: _opened(data) for rank, data in received.items()}
        leaving = [rank for rank, (other, _) in found.items() if other.leaves]
        if ended and not (message.leaves or last):
            # One that has had all from the ended process goes on to the next round, where it is told.
            leaves = _packed(_Message(leaves=True), [])
            self._ranks.swap({rank: leaves for rank in found if rank not in leaving})
        if ended or leaving or message.leaves:
            self._is_over = True
            raise OthersHaveLeft("the recording")
        if any(other.at != message.at for other, _ in found.values()):
            self._is_over = True
            raise OtherProcessError(different_samples())
        return found

    def _unpacked(self, message: _Message, data: Tensor) -> list[tuple[Key, Tensor]]:
        found, at = [], 0
        for key, shape, dtype, kind in message.layout:
            size = shape.numel() * dtype.itemsize
            rows = data[at : at + size].clone().view(dtype).reshape(shape)
            is_here = self._device is not None and self._device.type == kind
            found.append((key, rows.to(self._device if is_here else kind)))
            at += size
        return found


def different_samples(rank: int | None = None) -> str:
    """Return what to say where processes have read different samples."""
    which = "" if rank is None else f": those of the process of rank {rank} are not those of the first one"
    return (
        f"The processes have read different samples{which}, so that their layers must not stand side by side. Let "
        "every process read the same samples (seed what a data set draws by itself), or probe with one process."
    )


def _packed(message: _Message, features: list[tuple[Key, Tensor]]) -> Tensor:
    layout = tuple((key, rows.shape, rows.dtype, rows.device.type) for key, rows in features)
    header = pickle.dumps(replace(message, layout=layout))
    parts = [torch.tensor([len(header)]), torch.frombuffer(bytearray(header), dtype=torch.uint8)]
    parts += [rows.detach().cpu().contiguous().reshape(-1) for _, rows in features]
    return torch.cat([part.view(torch.uint8) for part in parts])


def _opened(data: Tensor) -> tuple[_Message, Tensor]:
    end = _HEADER + int(data[:_HEADER].clone().view(torch.int64))
    return pickle.loads(data[_HEADER:end].numpy().tobytes()), data[end:]
