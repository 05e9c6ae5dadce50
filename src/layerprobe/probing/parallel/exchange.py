"""Exchange of what a network's passes lead to, between processes that share the batches and the layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass, field

from torch import Tensor

from layerprobe.probing.features.cache import Key
from layerprobe.types import LayerName, Split


@dataclass
class BatchFindings:
    """What the network's pass over one batch leads to.

    Attributes:
        features: Those of every layer `(k, d)`, in the order in which they are made.
        problems: Why a layer has no usable features in this batch, by layer.
        no_positions: Why analyses have no positions of a layer to read, by layer.
        infinite: Layers whose problem lies in the samples, in whatever batches they come.
        seconds: Wall-clock seconds spent on reducing, by layer.
    """

    features: list[tuple[Key, Tensor]] = field(default_factory=list)
    problems: dict[LayerName, str] = field(default_factory=dict)
    no_positions: dict[LayerName, str] = field(default_factory=dict)
    infinite: set[LayerName] = field(default_factory=set)
    seconds: dict[LayerName, float] = field(default_factory=lambda: defaultdict(float))


class AbstractExchange(ABC):
    """Shares the batches out among processes, each of which fits layers of its own.

    Every process reads every batch. The very first one all run through the network, which shows whether sharing changes
    nothing; of those that follow, in rounds of as many batches as there are processes, each runs one, and gets what the
    others have made of its own layers. All make the same calls in the same order.

    Attributes:
        size: How many processes there are.
        shares: Whether they share batches; None before `decide`.
    """

    size: int
    shares: bool | None

    @abstractmethod
    def decide(self, first: str) -> None:
        """Agree on whether batches are shared.

        Args:
            first: What the first batch has led to, as a hash; empty where another pass might lead to something else.
                Batches are shared where all have the same.
        """

    @abstractmethod
    def owns(self, layer: LayerName) -> bool:
        """Tell whether this process fits a layer."""

    @abstractmethod
    def runs(self, i: int) -> bool:
        """Tell whether this process runs batch i of a round, from 0."""

    @abstractmethod
    def swap(self, own: BatchFindings | None, split: Split, n: int) -> list[BatchFindings]:
        """Give what a round has led to in this process, and get what it has in all.

        Args:
            own: Of the batch that this process has run, None where the round has no batch for it.
            split: Name of the split.
            n: Samples that this process has read of it.

        Returns:
            The findings of each process, which are those of the batches in order, with the features of this process's
            own layers alone.
        """

    @abstractmethod
    def finish(self) -> None:
        """Say that all splits are recorded, and wait until the others say so."""
