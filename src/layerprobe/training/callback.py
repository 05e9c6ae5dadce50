"""The callback that freezes checkpoints of a training run and probes every layer of each."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from layerprobe.files.errors import DamagedFileError, aside
from layerprobe.probing.batches import Data, check_splits, undisturbed
from layerprobe.probing.capture.freeze import check_initialised
from layerprobe.probing.capture.freeze import freeze as freeze_network
from layerprobe.probing.capture.random_generators import random_states_kept
from layerprobe.probing.data_adapters import named_tests, with_known_names
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.results.config_identity import differing, identity
from layerprobe.results.store import ProbeStore
from layerprobe.training.batch_hooks import with_batch_hooks
from layerprobe.training.callback_order import LateCallback
from layerprobe.training.checkpoints import CONFIG_KEY, CheckpointError, FrozenCheckpoint, damage, freeze, load
from layerprobe.training.collectives import Ranks
from layerprobe.training.lightning_splits import (
    Loaders,
    is_datamodule,
    of_population,
    splits_of,
    splits_of_trainer,
    with_tests,
)
from layerprobe.training.probe_session import ProbeSession
from layerprobe.training.resume import Guard
from layerprobe.training.schedule import Schedule
from layerprobe.training.team import ProbingStopped
from layerprobe.types import CheckpointInfo, Config, LayerName

log = logging.getLogger("layerprobe")

When = Literal["now", "end"]


class ProbeCallback(LateCallback):
    """Freezes the network at a schedule, probes every layer of it, and changes nothing about the run.

    Works with any trainer and module whose batches are (input, target). Weights, optimizer state, metrics, the order
    of the data and every random draw are bit-identical with and without it; state that cannot be put back is named in
    a warning.

    The network is called as the trainer's precision calls it (bf16-mixed, …); features and heads are float32 at least.

    It runs after the callbacks of others: the final network is the averaged or pruned one where they leave it. Where a
    training that had ended is continued, the network that was `final` goes by its epoch.

    Each checkpoint is written to `<directory>/checkpoints/<name>.ckpt` before it is probed; results go to
    `<directory>/probes`, layer by layer, and to the trainer's loggers.

    Args:
        protocol: The sweep that every checkpoint goes through; by default every layer, at most 1,024 features,
            twelve L2 values.
        resources: What probing may take: memory, disk, samples at a time.
        before_training: Freeze the untrained network, as `initial`.
        every_n_epochs: Freeze after every so many epochs, as `epoch_<n>`.
        every_n_steps: Freeze after every so many optimizer steps, as `step_<n>`.
        steps: Freeze after these optimizer steps, as `step_<n>`.
        at_end: Freeze the network that training ends with, as `final`.
        when: Probe as soon as a checkpoint is frozen (`now`) or all of them after training (`end`).
        directory: Where checkpoints and results go; by default the trainer's log directory.
        data: The splits to probe on, as `layerprobe.probe` takes them; by default those of the trainer's own data
            module and loaders.
        loaders: Which loader of a split to probe on, by split, where there are several; by default the first.
            Several of test, as a list or by names, are several test sets.
        tests: Further test sets that each head is read on, by name, as `layerprobe.probe` takes them.
        config: The run's resolved configuration, kept in each checkpoint.
        progress: Whether to show a progress bar; by default only on a terminal.

    Raises:
        TypeError: Where `protocol` or `resources` is something else.
        ValueError: Where an interval is not positive, or `when` is neither `now` nor `end`.
    """

    def __init__(
        self,
        protocol: ProbeProtocol | None = None,
        *,
        resources: Resources | None = None,
        before_training: bool = True,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        steps: Sequence[int] = (),
        at_end: bool = True,
        when: When = "now",
        directory: str | Path | None = None,
        data: Any = None,
        loaders: Loaders | None = None,
        tests: Mapping[str, Any] | None = None,
        config: Config | None = None,
        progress: bool | None = None,
    ) -> None:
        for name, given, kind in (("protocol", protocol, ProbeProtocol), ("resources", resources, Resources)):
            if not isinstance(given, kind | None):
                raise TypeError(
                    f"`{name}` is a {type(given).__name__}, expected layerprobe.{kind.__name__}(…). Give one, or leave "
                    "it out."
                )
        if when not in ("now", "end"):
            raise ValueError(f"`when` is {when!r}. Give 'now' (as soon as a checkpoint is frozen) or 'end'.")
        self.protocol = protocol or ProbeProtocol()
        self.resources = resources or Resources()
        self.schedule = Schedule(before_training, every_n_epochs, every_n_steps, tuple(steps), at_end)
        self.when = when
        self.directory = None if directory is None else Path(directory)
        self.config: Config = config or {}
        self._given = data
        self._loaders = loaders
        self._tests = {} if tests is None else dict(tests)
        named_tests(self._tests, taken=("test",))
        self._progress = progress
        self._frozen: list[CheckpointInfo] = []
        self._probed: list[str] = []
        self._ended = False
        self._finished = False
        self._restored = False
        self._trained = False
        self._data: Data | None = None
        self._guard: Guard | None = None
        self._ranks = Ranks()
        self._session: ProbeSession | None = None
        self._root = Path()

    @property
    def store(self) -> ProbeStore:
        """The results on disk.

        Raises:
            RuntimeError: Before training has started.
        """
        if self._session is None:
            raise RuntimeError("There are no results yet: the trainer has not started to fit.")
        # The first process has written them; what another one has read of them before is not all of them.
        return self._session.store if self._ranks.is_first else ProbeStore(self._session.store.directory)

    def results(self) -> pd.DataFrame:
        """Return one row for each checkpoint and layer probed so far."""
        return self.store.results()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run has to know."""
        return {
            "frozen": [vars(info) for info in self._frozen],
            "probed": list(self._probed),
            "ended": self._ended,
            "finished": self._finished,
            "run": self.config.get("run_id"),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where an earlier process saved the run; another run's checkpoints are none of this one's."""
        run = self.config.get("run_id")
        if state_dict.get("run", run) != run:
            return
        self._restored = True
        self._frozen = [CheckpointInfo(**info) for info in state_dict["frozen"]]
        self._probed = list(state_dict["probed"])
        self._ended = state_dict.get("ended", False)
        self._finished = state_dict.get("finished", False)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have the trainer's checkpoints say what their network is, as those of `freeze` do."""
        if self.config:
            checkpoint[CONFIG_KEY] = {"config": dict(self.config)}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the results before anything is computed, so that a directory that cannot be written costs nothing."""
        if isinstance(self._given, Mapping):
            check_splits(with_known_names(self._given), needs_val=self.protocol.needs_val)
        self._root = self.directory or Path(trainer.log_dir or trainer.default_root_dir)
        self._guard = next((other for other in trainer.callbacks if isinstance(other, Guard)), None)  # type: ignore[attr-defined]
        self._ranks = Ranks()
        self._session = ProbeSession(
            self._root / "probes",
            trainer.loggers,
            resources=self.resources,
            ranks=self._ranks,
            signals=self._guard.signals if self._guard else None,
            where=self._guard.progress if self._guard else None,
            progress=self._progress,
        )
        self._agree()
        self._take_leave(of_another=not self._restored and trainer.global_step == 0)
        self._restored = False
        if self._ranks.is_first:
            self._warn_of_damaged()
            for name in self._probed:  # by a process that may have been killed before it had logged them
                self._session.log_checkpoint(name, new=False)
        if self._ended and not self._finished:  # the run was stopped after training, which will not start again
            self._find_data(trainer, pl_module)
            with self._guard.signals.listening() if self._guard else nullcontext():
                self._finish(trainer, pl_module)
        elif self._finished and self._ranks.is_first:
            self._session.finish()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze the untrained network; probe what a run that was stopped had frozen and not probed."""
        self._trained = True
        self._find_data(trainer, pl_module)
        if self._ended:
            self._take_up()
        if self._session is not None and self._data is not None and not (self.schedule.starts and self.when == "now"):
            self._session.check_layers(
                pl_module, self._data, self._protocol(trainer, pl_module), precision=trainer.precision_plugin
            )
        if self.when == "now":
            self._probe_waiting(trainer, pl_module)
        if self.schedule.starts and trainer.global_step == 0:
            self._freeze(trainer, pl_module, CheckpointInfo("initial", 0, 0))
        elif self._frozen and trainer.current_epoch and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            # A file from the end of an epoch that was to be the last one: its network was to become `final`.
            self._freeze_epoch(trainer, pl_module, trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Freeze after the optimizer steps that the schedule names."""
        step = trainer.global_step
        if step > self._last_step and self.schedule.after_step(step):
            self._freeze(trainer, pl_module, CheckpointInfo(f"step_{step}", step, trainer.current_epoch))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze after the epochs that the schedule names; the last one is `final`."""
        self._freeze_epoch(trainer, pl_module, trainer.current_epoch + 1)

    def _freeze_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> None:
        last = self.schedule.at_end and epoch == trainer.max_epochs
        if self.schedule.after_epoch(epoch) and not last:
            self._freeze(trainer, pl_module, CheckpointInfo(f"epoch_{epoch}", trainer.global_step, epoch))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze the final network, and probe what has waited for the end."""
        if self.schedule.at_end:
            self._freeze(trainer, pl_module, CheckpointInfo("final", trainer.global_step, trainer.current_epoch))
        self._ended = True
        self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where nothing was probed: training had nothing to do, or came to no moment of the schedule."""
        if not self._ranks.is_first or self._frozen or trainer.interrupted:
            return
        if self._trained:
            log.warning("Nothing was probed: training came to no moment that its schedule names (%s).", self.schedule)
            return
        log.warning(
            "Nothing was probed: training had no step to take (max_epochs=%s, max_steps=%s, limit_train_batches=%s). "
            "Next step: train, or probe the network as it is with layerprobe.probe or scripts/probe.py.",
            trainer.max_epochs,
            trainer.max_steps,
            trainer.limit_train_batches,
        )

    def _agree(self) -> None:
        """Know in every process what the first one knows: under SLURM only that one is told the run's id."""
        known = (self._restored, self._frozen, self._probed, self._ended, self._finished)
        self._restored, self._frozen, self._probed, self._ended, self._finished = self._ranks.from_first(known)

    def _take_leave(self, *, of_another: bool) -> None:
        """Part from what this callback knows of another training, or of a directory whose results are not here."""
        kept = [info.name for info in self._frozen if self._ranks.is_first and self.store.done(info.name)]
        kept = self._ranks.from_first(kept)
        if not of_another:
            files = self._ranks.from_first([info.name for info in self._frozen if self._path(info).exists()])
            self._frozen = [info for info in self._frozen if info.name in {*kept, *files}]
            self._probed = [name for name in self._probed if name in kept]
            return
        if self._ended and kept:
            raise ValueError(
                f"{self._root} holds what this callback has measured of another training ({', '.join(kept)}). Next "
                "step: make a callback for each training, with a directory of its own."
            )
        for name in kept if self._ranks.is_first else ():  # of a training that broke off, and is begun again
            self.store.forget(name)
        self._frozen, self._probed, self._ended, self._finished = [], [], False, False

    def _take_up(self) -> None:
        """Go on beyond what was training's end: the network of then is no longer the final one, but an epoch's.

        It is probed again under that name. What is called `final` stays until the new end replaces it.
        """
        self._ended = self._finished = False
        former = next((info for info in self._frozen if info.name == "final"), None)
        if former is None:
            return
        now = replace(former, name=f"epoch_{former.epoch}")
        self._frozen = [info for info in self._frozen if info != former]
        self._probed = [name for name in self._probed if name != former.name]
        if all(info.name != now.name for info in self._frozen) and self._ranks.from_first(self._copied(former, now)):
            self._frozen.append(now)

    def _copied(self, former: CheckpointInfo, now: CheckpointInfo) -> bool:
        """Tell whether the network of then is there under its new name; it is not where a later end has replaced it."""
        if not self._ranks.is_first:
            return False
        for info in (now, former):
            with suppress(FileNotFoundError, CheckpointError):
                kept = load(self._path(info))
                if kept.info == info:
                    if info == former:
                        self._write(kept.state_dict, now)
                    return True
        return False

    def _write(self, state_dict: Mapping[str, Any], info: CheckpointInfo) -> None:
        """Keep a network; results of another one that was called so are no longer its own."""
        if self.store.done(info.name):
            self.store.forget(info.name)
        freeze(state_dict, self._path(info), info, self.config)

    def _find_data(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with freeze_network(pl_module, runs=False):
            if self._given is None:
                found = splits_of_trainer(trainer, pl_module, self._loaders)
                self._data = with_tests(found, self._tests, pl_module)
            else:
                self._data = splits_of(self._given, pl_module, loaders=self._loaders, tests=self._tests)
        check_splits(self._data, needs_val=self.protocol.needs_val)

    def _protocol(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> ProbeProtocol:
        """Return the sweep as the data ask for it."""
        source = getattr(trainer, "datamodule", None) if self._given is None else self._given
        protocol = of_population(self.protocol, source)
        if self._given is None or is_datamodule(source):
            protocol = with_batch_hooks(protocol, pl_module, source, trainer)
        return protocol

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._probe_waiting(trainer, pl_module)
        if {info.name for info in self._frozen} != set(self._probed):
            return
        self._finished = True
        if self._session is not None and self._ranks.is_first:
            self._session.finish()

    def _probe_waiting(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for info in [info for info in self._frozen if info.name not in self._probed]:
            self._probe_from_file(trainer, pl_module, info)

    @property
    def _last_step(self) -> int:
        return self._frozen[-1].step if self._frozen else 0

    def _freeze(self, trainer: pl.Trainer, pl_module: pl.LightningModule, info: CheckpointInfo) -> None:
        if any(known.name == info.name for known in self._frozen):
            return
        check_initialised(pl_module)
        with random_states_kept():  # probing freezes the network for as long as it looks at it
            done = self._done(pl_module, info)
            if trainer.is_global_zero and not done:
                self._write(pl_module.state_dict(), info)
            self._frozen.append(info)
            if self.when == "now":
                self._probe(trainer, pl_module, info, done)

    def _done(self, pl_module: pl.LightningModule, info: CheckpointInfo) -> Collection[LayerName]:
        """List layers whose results are those of this very network: a run that was killed had come this far before."""
        if not self._ranks.is_first or not self.config or not self._path(info).exists():
            return ()
        try:
            kept, state = load(self._path(info)), pl_module.state_dict()
        except CheckpointError as error:
            log.warning("%s Its network is frozen and probed again.", error)
            return ()
        same = kept.info == info and kept.state_dict.keys() == state.keys()
        same = same and not differing(identity(kept.config, self._root), identity(self.config, self._root))
        if same and all(torch.equal(value, state[name].cpu()) for name, value in kept.state_dict.items()):
            return self.store.done(info.name)
        return ()

    def _probe_from_file(self, trainer: pl.Trainer, pl_module: pl.LightningModule, info: CheckpointInfo) -> None:
        """Probe an earlier network: its weights are put in, and the final ones put back."""
        final: dict[str, Any] = {
            name: value.clone() if isinstance(value, Tensor) else deepcopy(value)
            for name, value in pl_module.state_dict().items()
        }
        try:
            pl_module.load_state_dict(self._load(info).state_dict)
            with random_states_kept():
                self._probe(trainer, pl_module, info, self.store.done(info.name))
        finally:
            pl_module.load_state_dict(final)

    def _probe(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, info: CheckpointInfo, done: Collection[LayerName]
    ) -> None:
        """Probe what is not done; where a signal comes in between, the checkpoint is still to be probed."""
        whole = True
        if self._session is not None and self._data is not None:
            protocol = self._protocol(trainer, pl_module)
            at = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            precision = trainer.precision_plugin
            hooked = protocol.inputs is not self.protocol.inputs
            try:
                with undisturbed(getattr(trainer, "datamodule", None) if hooked else None, "datamodule"):
                    self._session.probe(pl_module, self._data, protocol, info, precision=precision, done=done, at=at)
                if self._ranks.is_first:
                    self._session.log_checkpoint(info.name)
            except ProbingStopped:
                whole = False
        if self._ranks.from_first(whole):
            self._probed.append(info.name)

    def _load(self, info: CheckpointInfo) -> FrozenCheckpoint:
        try:
            return load(self._path(info))
        except (CheckpointError, FileNotFoundError) as error:
            last = f" and the run's last.ckpt ({aside(self._guard.path)})" if self._guard else ""
            raise DamagedFileError(
                self._path(info),
                "it holds a network that is still to be probed",
                f"Only training from the start makes it again: move it away ({aside(self._path(info))}){last}, and "
                "start the run again; results that are there are kept.",
            ) from error

    def _warn_of_damaged(self) -> None:
        """Name the checkpoints that are damaged and no longer needed: nothing else would say so."""
        for info in self._frozen:
            path = self._path(info)
            if info.name in self._probed and path.exists() and (problem := damage(path)):
                log.warning(
                    "%s is damaged (%s). Its results are intact; only training from the start makes it again.",
                    path,
                    problem,
                )

    def _path(self, info: CheckpointInfo) -> Path:
        return self._root / "checkpoints" / f"{info.name}.ckpt"
