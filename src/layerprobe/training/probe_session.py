"""The session of a probe: one network after another, shown, stopped between two layers, kept layer by layer, logged."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.precision import Precision
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from layerprobe.probing.batches import Data
from layerprobe.probing.capture.hooks import Context
from layerprobe.probing.cost.plan import make_plan
from layerprobe.probing.discovery import Discovery
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import DEFAULTS, Resources
from layerprobe.results.progress import ProgressFile
from layerprobe.results.provenance import Entry, Ledger
from layerprobe.results.store import ProbeStore
from layerprobe.training.loggers import ProbeLog
from layerprobe.training.progress import ProbeProgress
from layerprobe.training.signals import StopSignals
from layerprobe.types import CheckpointInfo, LayerName
from layerprobe.user_errors import is_message

log = logging.getLogger("layerprobe")


class ProbingStopped(Exception):
    """Probing was left before a layer, which the message names; those that are done are kept."""


class ProbeSession:
    """Probes networks into one folder of results; what the callback and `scripts/probe.py` have in common.

    Attributes:
        store: The results on disk.
        log: The loggers.
    """

    def __init__(
        self,
        directory: Path,
        loggers: Sequence[Logger] = (),
        *,
        resources: Resources = DEFAULTS,
        signals: StopSignals | None = None,
        where: ProgressFile | None = None,
        progress: bool | None = None,
    ) -> None:
        """Open the results, so that a directory that cannot be written costs nothing.

        Args:
            directory: The folder of the results.
            loggers: Where results are logged.
            resources: What probing may take.
            signals: Those that ask to stop, answered before the next layer; by default none is.
            where: Told which layer of which checkpoint is being probed.
            progress: Whether to show a progress bar; by default only on a terminal.
        """
        self.store = ProbeStore(directory)
        self.store.prepare()
        self._ledger = Ledger(directory)
        self.log = ProbeLog(loggers)
        self._resources = resources
        self._signals = signals
        self._where = where
        self._progress = progress
        self._announced = False

    def is_complete(self, name: str, entry: Entry, *, force: bool = False) -> bool:
        """Tell whether a checkpoint has been probed already.

        Args:
            name: Its name.
            entry: What it is, and how it is to be probed.
            force: Forget what there is of it.

        Raises:
            OtherResultsError: Where the results under that name are of another network or protocol.
        """
        if force:
            self.store.forget(name)
        return not force and self._ledger.is_complete(name, entry, has_results=bool(self.store.done(name)))

    def probe(
        self,
        network: nn.Module,
        data: Data,
        protocol: ProbeProtocol,
        info: CheckpointInfo,
        *,
        precision: Precision | None = None,
        done: Collection[LayerName] | None = None,
        entry: Entry | None = None,
        plan: bool = True,
        at: Mapping[str, int] | None = None,
    ) -> None:
        """Probe every layer that is not done, and keep each as it comes.

        Args:
            network: The network; it is left as it was.
            data: The splits.
            protocol: The sweep.
            info: Which checkpoint this is.
            precision: The trainer's precision, in which the network is called; by default its own.
            done: Layers to leave out; by default those that have results under this name.
            entry: Written into the ledger, at the end as complete.
            plan: Whether to say what it will take, if nothing has been said in this session.
            at: What else there is to say about where this process is: the epoch and the step.

        Raises:
            ProbingStopped: Where a signal has come.
        """
        done = self.store.done(info.name) if done is None else done
        context: Context = nullcontext
        if precision is not None:
            protocol, context = with_converted_inputs(protocol, precision), precision.forward_context
        if entry is not None:
            self._ledger.write(info.name, entry)
        discovery: Discovery | None = None
        if plan and not self._announced:
            self._announced = True
            discovery = announce(network, data, protocol, context, resources=self._resources, done=done)
        new = 0
        with ProbeProgress(f"Probing {info.name}", self._progress) as bar:

            def on_progress(stage: str, i: int, total: int | None) -> None:
                bar(stage, i, total)
                if i != total:
                    self._before(info.name, f"layer {i + 1} of {total}" if total else stage, at or {})

            try:
                for result in probe_checkpoint(
                    network,
                    data,
                    protocol,
                    info,
                    resources=self._resources,
                    discovery=discovery,
                    done=done,
                    context=context,
                    on_progress=on_progress,
                ):
                    self.store.add(result)
                    new += 1
            finally:
                self.store.merge()
                log.info("Probed %s at step %d: %d layers, %d done before", info.name, info.step, new, len(done))
        if entry is not None:
            self._ledger.write(info.name, replace(entry, complete=True))

    def log_checkpoint(self, name: str, *, new: bool = True) -> None:
        """Log what there is of a checkpoint.

        Args:
            name: Its name.
            new: Whether it has never been logged; else it goes only to loggers that recognise what they have.
        """
        results = self.store.results()
        self.log.checkpoint(results[results["checkpoint"] == name], new=new)

    def finish(self) -> None:
        """Log the whole."""
        self.log.finish(self.store)

    def _before(self, checkpoint: str, layer: str, at: Mapping[str, int]) -> None:
        """Say where this process is, and stop where a signal has come."""
        if self._signals is not None:
            self._signals.listen()
        stopping = self._signals is not None and self._signals.received != 0
        if self._where is not None:
            self._where.write(at_once=stopping, **at, checkpoint=checkpoint, layer=layer)
        if stopping:
            raise ProbingStopped(f"{layer} of {checkpoint}")


def with_converted_inputs(protocol: ProbeProtocol, precision: Precision) -> ProbeProtocol:
    """Turn the network's inputs into the number format of a precision, as training does.

    Args:
        protocol: The sweep.
        precision: The trainer's precision; its `forward_context` belongs around the network's passes.

    Returns:
        The same sweep.
    """
    inputs = protocol.inputs
    return replace(protocol, inputs=lambda batch: precision.convert_input(inputs(batch)))


def announce(
    network: nn.Module,
    data: Data,
    protocol: ProbeProtocol,
    context: Context = nullcontext,
    *,
    resources: Resources = DEFAULTS,
    done: Collection[LayerName] = (),
) -> Discovery | None:
    """Log a plan, two lines of it.

    Data that can only be iterated are left alone: reading them for a plan might use them up. No problem of planning
    stops a run: one of the user's making is logged by its message, and said again by the probing if it is one there
    too; any other error is logged as one, with its traceback.

    Args:
        network: The network; it is left as it was.
        data: The splits.
        protocol: The sweep.
        context: Makes what the network's passes run in.
        resources: What it may take.
        done: Layers that will be left out.

    Returns:
        What the plan has found out about the network, for the probing of it; None without a plan.
    """
    if not all(_can_be_read_again(source) for source in data.values() if source is not None):
        return None
    try:
        plan = make_plan(network, data, protocol, context, resources=resources, done=done)
    except Exception as error:  # a plan is advice, without which the run goes on
        if is_message(error) or isinstance(error, OSError | torch.OutOfMemoryError):
            log.info("There is no plan: %s", error)
        else:
            log.exception("No plan could be made; probing goes on without one.")
        return None
    for line in plan.lines() if plan.layers else ():
        log.info("Plan: %s", line)
    return plan.discovery


def _can_be_read_again(source: Any) -> bool:
    if isinstance(source, DataLoader):
        return source.batch_sampler is not None and not isinstance(source.dataset, IterableDataset)
    return isinstance(source, tuple | list) and len(source) == 2 and isinstance(source[1], Tensor)
