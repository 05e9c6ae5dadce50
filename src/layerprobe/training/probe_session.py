"""The session of a probe: one network after another, shown, stopped between two layers, kept layer by layer, logged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.precision import Precision
from torch import nn

from layerprobe.formatting import count_text, is_message
from layerprobe.probing.batches import Data, reads_again
from layerprobe.probing.capture.default_device import own_device
from layerprobe.probing.capture.freeze import freeze, uninitialised
from layerprobe.probing.capture.hooks import Context
from layerprobe.probing.cost.plan import make_plan
from layerprobe.probing.data_fingerprint import Fingerprint
from layerprobe.probing.discovery import Discovery
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import DEFAULTS, Resources
from layerprobe.results.checkpoint_ledger import Entry, Ledger
from layerprobe.results.progress import ProgressFile
from layerprobe.results.store import ProbeStore
from layerprobe.results.test_sets import on_each_test_set
from layerprobe.training.collectives import Ranks
from layerprobe.training.probe_log import ProbeLog
from layerprobe.training.progress_bar import ProbeProgress
from layerprobe.training.sharing import Subject, share
from layerprobe.training.signals import StopSignals
from layerprobe.training.team import ProbingStopped, Team
from layerprobe.types import CheckpointInfo, LayerName, LayerResult

log = logging.getLogger("layerprobe")


class ProbeSession:
    """Probes networks into one folder of results; what the callback and `scripts/probe.py` have in common.

    Where a run has several processes, each has a session: they share the layers, and the first one writes and logs.

    The results are opened at once, so that a directory that cannot be written costs nothing.

    Args:
        directory: The folder of the results.
        loggers: Where results are logged.
        resources: What probing may take.
        ranks: The processes of the run; by default this one alone.
        signals: Those that ask to stop, answered before the next layer; by default none is.
        where: Told which layer of which checkpoint is being probed.
        progress: Whether to show a progress bar; by default only on a terminal.

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
        ranks: Ranks | None = None,
        signals: StopSignals | None = None,
        where: ProgressFile | None = None,
        progress: bool | None = None,
    ) -> None:
        self._ranks = ranks or Ranks()
        self.store = ProbeStore(directory)
        if self._ranks.is_first:
            self.store.prepare()
        self._ledger = Ledger(directory)
        self.log = ProbeLog(loggers if self._ranks.is_first else ())  # elsewhere there is no run to log to
        self._resources = resources
        self._signals = signals
        self._where = where
        self._progress = progress
        self._announced = False

    def is_complete(self, name: str, entry: Entry, *, force: bool = False) -> bool:
        """Tell whether a checkpoint has been probed already; with `force`, forget what there is of it.

        Raises:
            OtherResultsError: Where the results under that name are of another network or protocol.
        """
        if force:
            self.store.forget(name)
        return not force and self._ledger.is_complete(name, entry, has_results=bool(self.store.done(name)))

    @own_device()
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
        done = self._ranks.from_first(self.store.done(info.name) if done is None else done)
        subject = self._subject(network, data, protocol, precision, done)
        if entry is not None:
            self._ledger.write(info.name, entry)
        with self._ranks.as_first(network):
            self._probe(subject, info, plan, at or {})
        if entry is not None:
            self._ledger.write(info.name, replace(entry, complete=True))

    @own_device()
    def check_layers(
        self, network: nn.Module, data: Data, protocol: ProbeProtocol, *, precision: Precision | None = None
    ) -> None:
        """Find out on one batch whether each pattern matches a layer, before work that comes before probing.

        Nothing is looked at where all layers are asked for, where the network is not initialised yet, and of data that
        can only be iterated, which that might use up.

        Raises:
            ValueError: A pattern matches no layer.
        """
        if (protocol.layers == "*" and not protocol.exclude) or uninitialised(network):
            return
        if not reads_again(data["train"]):
            return
        subject = self._subject(network, data, protocol, precision)
        with freeze(network, context=subject.context) as frozen:
            subject.discover(frozen)

    def _subject(
        self,
        network: nn.Module,
        data: Data,
        protocol: ProbeProtocol,
        precision: Precision | None,
        done: Collection[LayerName] = (),
    ) -> Subject:
        context: Context = nullcontext
        if precision is not None:
            protocol, context = with_converted_inputs(protocol, precision), precision.forward_context
        return Subject(network, data, protocol, context, self._resources, done)

    def _probe(self, subject: Subject, info: CheckpointInfo, plan: bool, at: Mapping[str, int]) -> None:
        ranks, resources, read, exchange = self._ranks, self._resources, None, None
        discovery = self._planned(subject) if plan else None
        if ranks.size > 1:
            assert not callable(discovery)
            own = share(ranks, subject, discovery)
            resources, read = replace(resources, processes=own.processes), Fingerprint()
            discovery, exchange = own.discovery, own.exchange
        new, ended = 0, False
        with ProbeProgress(f"Probing {info.name}", self._progress if ranks.is_first else False) as bar:

            def keep(result: LayerResult) -> None:
                nonlocal new
                self.store.add(result)
                new += 1

            def on_progress(stage: str, i: int, total: int | None) -> None:
                if total is None:
                    bar(stage, i, total)
                    self._before(info.name, stage, at)
                    return
                stop = team.begin(i, total, read.digest() if read is not None else "")
                if i != total:
                    self._before(info.name, team.where, at, stop=stop)

            try:
                with (
                    Team(ranks, keep, partial(bar, "probe layers"), self._is_stopping) as team,
                    exchange or nullcontext(),
                ):
                    for result in probe_checkpoint(
                        subject.network,
                        subject.data,
                        subject.protocol,
                        info,
                        resources=resources,
                        discovery=discovery,
                        done=subject.done,
                        context=subject.context,
                        on_progress=on_progress,
                        read=read,
                        exchange=exchange,
                    ):
                        team.hand_over(result)
                ended = True
            finally:
                if ranks.is_first:
                    self.store.merge()
                    if ended or new:
                        before = f", {len(subject.done)} done before" if subject.done else ""
                        log.info("Probed %s at step %d: %s%s", info.name, info.step, count_text(new, "layer"), before)

    def _planned(self, subject: Subject) -> Discovery | Callable[[], Discovery | None] | None:
        """Return what this session's plan has found out, or what makes it where kept features may need none."""
        size = self._ranks.size
        if self._announced or not self._ranks.is_first:
            return None
        self._announced = True
        plan = partial(announce, subject, processes=size)
        return plan if self._resources.keep and size == 1 else plan()

    def log_checkpoint(self, name: str, *, new: bool = True) -> None:
        """Log what there is of a checkpoint; where it is not `new`, only to loggers that recognise what they have."""
        metrics = self.store.metrics()
        results = on_each_test_set(self.store.results(), metrics)
        self.log.checkpoint(results[results["checkpoint"] == name], metrics, new=new)

    def finish(self) -> None:
        """Log the whole."""
        self.log.finish(self.store)

    def _is_stopping(self) -> bool:
        return self._signals is not None and self._signals.received != 0

    def _before(self, checkpoint: str, layer: str, at: Mapping[str, int], *, stop: bool = False) -> None:
        """Say where this process is, and stop where a signal has come."""
        if self._signals is not None:
            self._signals.listen()
        stop = stop or self._is_stopping()
        if self._where is not None and self._ranks.is_first:
            self._where.write(at_once=stop, **at, checkpoint=checkpoint, layer=layer)
        if stop:
            raise ProbingStopped(f"{layer} of {checkpoint}")


def with_converted_inputs(protocol: ProbeProtocol, precision: Precision) -> ProbeProtocol:
    """Turn the network's inputs into the number format of a precision, as training does."""
    inputs = protocol.inputs
    return replace(protocol, inputs=lambda batch: precision.convert_input(inputs(batch)))


def announce(subject: Subject, processes: int = 1) -> Discovery | None:
    """Log a plan, two lines of it.

    Data that can only be iterated are left alone: reading them for a plan might use them up. No problem of planning
    stops a run: one of the user's making is logged by its message, and said again by the probing if it is one there
    too; any other error is logged as one, with its traceback.

    Returns:
        What the plan has found out about the network, for the probing of it; None without a plan.
    """
    if not subject.reads_again:
        return None
    given = (subject.network, subject.data, subject.protocol, subject.context)
    try:
        plan = make_plan(*given, resources=subject.resources, done=subject.done)
        plan = replace(plan, processes=processes)
    except Exception as error:  # a plan is advice, without which the run goes on
        if is_message(error) or isinstance(error, OSError | torch.OutOfMemoryError):
            log.info("There is no plan: %s", error)
        else:
            log.exception("No plan could be made; probing goes on without one.")
        return None
    for line in plan.lines() if plan.layers else ():
        log.info("Plan: %s", line)
    return plan.discovery
