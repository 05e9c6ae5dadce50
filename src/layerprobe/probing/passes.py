"""Passes over the splits of a frozen network: the features of every layer are recorded, or the data alone are read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from layerprobe.probing.activation_recorder import ActivationRecorder
from layerprobe.probing.batches import Data, in_order, split_names
from layerprobe.probing.capture.freeze import Frozen
from layerprobe.probing.capture.hooks import Site, Way
from layerprobe.probing.data_fingerprint import Fingerprint
from layerprobe.probing.discovery import Discovery
from layerprobe.probing.feature_keeper import DataChangedError, FeatureKeeper
from layerprobe.probing.features.cache import AbstractSink, FeatureCache
from layerprobe.probing.fitting import Ways
from layerprobe.probing.parallel.exchange import AbstractExchange
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.probing.split_reader import Recording, SplitReader
from layerprobe.types import Split

log = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with what is going on, how much of it is done, and how much there is (None: unknown)."""


@dataclass(frozen=True)
class Passes:
    """One pass over each split, in which everything takes in what it needs of each batch.

    Attributes:
        frozen: The network.
        data: The splits.
        protocol: The sweep.
        resources: What a pass may take.
        on_progress: Told how far a pass is.
        samples: Take in the samples of each test set; a pass that records begins them anew.
        every_sample: Takes in the samples of all splits, likewise.
    """

    frozen: Frozen
    data: Data
    protocol: ProbeProtocol
    resources: Resources
    on_progress: Progress = lambda stage, i, total: None
    samples: Mapping[Split, Fingerprint] = field(default_factory=dict)
    every_sample: Fingerprint | None = None

    def record(
        self,
        ways: Ways,
        sink: AbstractSink,
        keep: Callable[[Split, ActivationRecorder], None] | None = None,
        exchange: AbstractExchange | None = None,
    ) -> dict[Split, Recording]:
        """Record all layers and reducers together, those of other processes among them where these share passes."""
        for fingerprint in (*self.samples.values(), *([] if self.every_sample is None else [self.every_sample])):
            fingerprint.restart()
        recordings: dict[Split, Recording] = {}
        taken: dict[Site, Way] = {}
        contents = keep is not None
        for split in split_names(self.data):
            if exchange is not None and exchange.shares is False:
                ways = {layer: found for layer, found in ways.items() if exchange.owns(layer.name)}
            reductions = {layer: [way.reduction for way in found] for layer, found in ways.items()}
            record = ActivationRecorder(
                self.frozen, reductions, self.protocol, sink, split, contents=contents, ways=taken, exchange=exchange
            )
            self._pass(split, record, "record")
            recordings[split] = record.recording
            if keep is not None:
                keep(split, record)
        if exchange is not None:
            exchange.finish()
        return recordings

    def read(self) -> dict[Split, Recording]:
        """Read the data without the network, and hash what would be recorded."""
        found: dict[Split, Recording] = {}
        for split in split_names(self.data):
            reader = SplitReader(self.protocol, split, contents=True)
            self._pass(split, reader, "read")
            found[split] = reader.recording({}, {})
        return found

    def found_or_recorded(
        self, keeper: FeatureKeeper, found: Discovery, cache: FeatureCache
    ) -> Mapping[Split, Recording]:
        """Find the features that are kept, record the others, and keep these."""
        missing, known = keeper.load(found.ways, cache)
        try:
            recordings = known
            if missing:
                recordings = self.record(missing, cache, partial(keeper.keep, missing, cache))
                if known:
                    recordings = {split: new.beside(known[split]) for split, new in recordings.items()}
            keeper.keep_discovery(found, recordings["train"].contents)
        except DataChangedError as change:
            log.warning("Features are not kept: %s.", change)
            for layer in found.ways:
                cache.drop(layer.name)
            recordings = self.record(found.ways, cache)
        return recordings

    def _pass(self, split: Split, reader: ActivationRecorder | SplitReader, verb: str) -> None:
        """Hand every batch of a split to those that take it in."""
        seed, watching = self.protocol.seeds[0], (self.samples.get(split), self.every_sample)
        source, size = self.data[split], self.resources.batch_size
        with self.frozen.fresh(seed), closing(in_order(source, size, seed)) as batches, reader as read:
            for number, batch in enumerate(batches, 1):
                for fingerprint in watching:
                    if fingerprint is not None:
                        fingerprint.update(batch)
                read(batch)
                self.on_progress(f"{verb} {split}", number, None)
