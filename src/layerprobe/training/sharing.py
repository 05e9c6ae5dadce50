"""Sharing of one probe among the processes of a run: the layers and batches are dealt out.

Every process reads the whole splits, and fits its own layers. Each runs its share of the batches through the network
and sends the features to the processes that fit them (see `RankExchange`), where the first batch shows that another
pass leads to the same bits; otherwise, where a network draws random numbers or keeps a state, where features are kept,
or not every process has layers to fit, each makes passes of its own over the whole splits. Either way what it fits is
what one process alone would have fitted, bit for bit. For that the processes have to have the same network and samples.
Parameters and buffers are made the first one's (see `Ranks.as_first`); of the rest of the network, names and shapes of
layers are compared, and the features of the first batch. Samples are compared twice: the length and the first batch of
each split before layers are dealt out, and all of them when they have been recorded, as far as a `Fingerprint` tells
samples apart.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from layerprobe.probing.batches import Data, in_order, length, reads_again
from layerprobe.probing.budget import least_memory, processes_with_room
from layerprobe.probing.capture.call_arguments import device_of
from layerprobe.probing.capture.freeze import Frozen, freeze
from layerprobe.probing.capture.hooks import Context
from layerprobe.probing.capture.survey import Survey
from layerprobe.probing.data_fingerprint import Fingerprint
from layerprobe.probing.discovery import Discovery, discover_layers
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import DEFAULTS, Resources
from layerprobe.training.collectives import Ranks
from layerprobe.training.rank_exchange import RankExchange
from layerprobe.types import LayerName

log = logging.getLogger("layerprobe")


@dataclass(frozen=True, eq=False)
class Subject:
    """What is probed, and how.

    `max_memory` of the resources is for the processes of a machine together.
    """

    network: nn.Module
    data: Data
    protocol: ProbeProtocol
    context: Context = nullcontext
    resources: Resources = DEFAULTS
    done: Collection[LayerName] = ()

    @property
    def reads_again(self) -> bool:
        """Whether its data can be read more than once: what can only be iterated might be used up."""
        return all(reads_again(source) for source in self.data.values() if source is not None)

    def discover(self, frozen: Frozen) -> Discovery:
        """Find the layers of the frozen network, on the first batch."""
        return discover_layers(frozen, self.data, self.protocol, self.resources, self.done)


@dataclass(frozen=True)
class Share:
    """What falls to one process.

    Attributes:
        discovery: Its layers, None where it is to find all of them out itself.
        processes: How many processes of this machine probe.
        exchange: Shares the batches with the others, where that is done.
    """

    discovery: Discovery | None
    processes: int = 1
    exchange: RankExchange | None = None


def share(ranks: Ranks, subject: Subject, discovery: Discovery | None) -> Share:
    """Deal the layers of a network out to the processes that have the layers and samples of the first one, and room.

    Data that can only be iterated are left to the first process: reading them elsewhere might use them up, and each
    process may have a part of its own. So are samples that cannot be compared.
    """
    protocol, resources, device = subject.protocol, subject.resources, device_of(subject.network)
    nothing = Discovery({}, 0, 0, Survey(protocol.granularity, (), {}), {})
    found, seen, room = discovery, None, 1
    if subject.reads_again:
        try:
            found, seen = _look(subject, discovery)
            needs = least_memory(protocol, found)
            room = processes_with_room(device, resources.max_memory, *needs, processes=ranks.size)
        except Exception:  # the first process comes upon it again when it probes, and ends with it
            log.debug("Nothing is known of the layers and the samples.", exc_info=True)
    everyones, rooms, machines = zip(*ranks.everyones((seen, room, socket.gethostname())), strict=True)
    able = [rank for rank, other in enumerate(everyones) if other is not None and other == everyones[0]]
    if found is None or not able:
        return Share(found if ranks.is_first else nothing)

    def beside(rank: int, others: list[int]) -> list[int]:
        return [other for other in others if machines[other] == machines[rank]]

    def has_room(rank: int) -> bool:  # the first one is to say so if even it has none
        here = beside(rank, able)
        return rank == 0 or here.index(rank) < min(rooms[other] for other in here)

    fitting = [rank for rank in able if has_room(rank)]
    for left_out, reason in (
        (ranks.size - len(able), "have other layers or samples than the first one"),
        (len(able) - len(fitting), "find no room in the memory beside the others"),
    ):
        if ranks.is_first and left_out:
            log.warning("%d of the %d processes %s, and probe nothing.", left_out, ranks.size, reason)
    parts, exchange = found.dealt(len(fitting)), None
    own = parts[fitting.index(ranks.rank)] if ranks.rank in fitting else nothing
    if len(fitting) == ranks.size and all(part.ways for part in parts) and resources.keep is None:
        owner = {layer.name: rank for rank, part in enumerate(parts) for layer in part.ways}
        exchange, own = RankExchange(ranks, owner, device), replace(own, every=found.ways)
    return Share(own, max(1, len(beside(ranks.rank, fitting))), exchange)


def _look(subject: Subject, discovery: Discovery | None) -> tuple[Discovery, Any]:
    """Find the layers, and what tells others whether theirs and their samples are the same, None if none does."""
    seed, size, samples = subject.protocol.seeds[0], subject.resources.batch_size, []
    with freeze(subject.network, context=subject.context) as frozen:
        found = discovery or subject.discover(frozen)
        for split, source in subject.data.items():
            if source is not None:
                first = Fingerprint()
                with frozen.fresh(seed), closing(in_order(source, size, seed)) as batches:
                    first.update(next(batches, None))
                samples.append((split, length(source), first.digest()))
    known = all(digest for *_, digest in samples)
    return found, (samples, [(layer.name, layer.shape) for layer in found.ways]) if known else None
