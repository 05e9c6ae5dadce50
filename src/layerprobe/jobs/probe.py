"""The probing of frozen networks: checkpoints of anyone, or a network as it is built."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import hydra
import pandas as pd
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.plugins.precision import Precision
from rich.console import Console
from torch import nn

from layerprobe.compat.lightning import silence_lightning
from layerprobe.config import plain_probe, protocol_of, resources_of
from layerprobe.formatting import percent_text
from layerprobe.jobs.batch_reading import loaders_of, read_as_in_run
from layerprobe.jobs.config_check import plain
from layerprobe.jobs.configured_test_sets import without_tests
from layerprobe.jobs.failure_reason import reason
from layerprobe.jobs.hub_revisions import revisions_of, with_revision
from layerprobe.jobs.run_report import report, summary
from layerprobe.jobs.trusted_classes import BY_HAND, merged, plain_precision
from layerprobe.probing.batches import Data
from layerprobe.probing.capture.survey import left_out_lines
from layerprobe.probing.cost.plan import make_plan
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.program import say
from layerprobe.report.depth_curve_options import DepthView
from layerprobe.report.tables.plan_table import plan_table
from layerprobe.results.baselines import baselines_above_majority
from layerprobe.results.checkpoint_ledger import Entry
from layerprobe.results.progress import ProgressFile
from layerprobe.results.run_directory import RunDirectory
from layerprobe.results.run_summary import RunSummary
from layerprobe.training.batch_hooks import with_batch_hooks
from layerprobe.training.checkpoints import FrozenCheckpoint, file_hash, find_checkpoints, load
from layerprobe.training.initial_weights import as_built, with_random_weights
from layerprobe.training.lightning_splits import of_population, splits_of_datamodule, with_tests
from layerprobe.training.probe_session import ProbeSession, with_converted_inputs
from layerprobe.training.signals import StopSignals
from layerprobe.training.team import ProbingStopped
from layerprobe.training.weights import put_weights
from layerprobe.types import UNTRAINED, CheckpointInfo

log = logging.getLogger("layerprobe")

silence_lightning()

Piece = TypeVar("Piece")
Source = tuple[Path | None, CheckpointInfo]
_RANDOM = CheckpointInfo(UNTRAINED)
"""The network with random weights, which is probed beside the ones that are asked for."""

EXPECTED = (ValueError, TypeError, LookupError, OSError, RuntimeError, InstantiationException)
"""What a wrong file or a wrong word on the command line leads to."""


def plan(cfg: DictConfig) -> None:
    """Print what would be probed at the first checkpoint, and what it would cost.

    Raises:
        CompactHydraException: Where there is nothing that could be probed; its message says why.
    """
    try:
        source, builder = checkpoints_of(cfg)[0], Builder(cfg)
        checkpoint = builder.open(source)
        built = builder.build(checkpoint, builder.config(checkpoint))
        protocol, context = with_converted_inputs(built.protocol, built.precision), built.precision.forward_context
        found = make_plan(built.network, built.data, protocol, context, resources=builder.resources)
    except EXPECTED as failure:
        raise CompactHydraException(reason(failure)) from None
    layers = pd.DataFrame([asdict(layer) for layer in found.layers])
    layers["shape"] = ["x".join(map(str, shape)) for shape in layers["shape"]]
    Console().print(plan_table(layers))
    if left_out := left_out_lines(found.discovery.survey.left_out):
        say("Left out:", *(f"  {line}" for line in left_out), "")
    say(*(f"{source[1].name}: {line}" for line in found.lines()))


def checkpoints_of(cfg: DictConfig) -> Sequence[Source]:
    """Find this job's share of the checkpoints; before them, where it is asked for, the network with random weights.

    Raises:
        ValueError: Where a part of a checkpoint is asked for and there is none.
    """
    found = _asked_for(cfg)
    if cfg.untrained and UNTRAINED not in {info.name for _, info in found}:
        found = [(found[0][0], _RANDOM), *found]
    return share(found, cfg.shard)


def share(work: Sequence[Piece], shard: str | None) -> Sequence[Piece]:
    """Take the i-th of n shares of some work, for the shard `i/n`, from 1: every n-th piece; without a shard, all.

    Raises:
        ValueError: Where `shard` is not such a pair.
    """
    if shard is None:
        return work
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(
            f"shard={shard} is not a share. Give i/n with i from 1 to n, such as shard=1/4,2/4,3/4,4/4 with -m."
        )
    return work[int(found[1]) - 1 :: int(found[2])]


def _asked_for(cfg: DictConfig) -> Sequence[Source]:
    if cfg.prefix and not cfg.checkpoint:
        raise ValueError(
            f"prefix={cfg.prefix} is the part of a checkpoint to take, but no checkpoint is given: the network is "
            "probed as it is built. Give checkpoint=FILE as well, or leave prefix out."
        )
    if cfg.checkpoint:
        return find_checkpoints(cfg.checkpoint, trust=cfg.trust_checkpoint)
    if revisions := revisions_of(cfg):
        return [(None, info) for info in revisions]
    model: Any = OmegaConf.to_container(cfg.model, resolve=True) if cfg.model else {}
    return [(None, as_built(model, hydra.utils.get_object))]


def probe(cfg: DictConfig, run: RunDirectory) -> RunSummary:
    """Probe, log and report.

    Returns:
        How it ended, with the layer that validation prefers at the last checkpoint.

    Raises:
        RuntimeError: Where a checkpoint could not be probed, after the others have been.
        Stopped: Where a signal has come; the layers that are done are kept.
    """
    sources = checkpoints_of(cfg)
    if not sources:
        log.info("Nothing to do: there are fewer checkpoints than shares (shard=%s).", cfg.shard)
        return RunSummary("done", list(HydraConfig.get().overrides.task))
    logged = run.has_id  # an earlier call has logged what it probed to the same run of the dashboard
    if cfg.logger:
        cfg.run_id = cfg.run_id or run.id
    builder, signals = Builder(cfg), StopSignals()
    view: DepthView = hydra.utils.instantiate(cfg.report)
    loggers = list(hydra.utils.instantiate(cfg.logger, _convert_="all").values())
    session = ProbeSession(
        run.path / "probes", loggers, resources=builder.resources, signals=signals, where=ProgressFile(run.path)
    )
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    failures: dict[str, str] = {}
    with signals.listening():
        for source in sources:
            name, new = source[1].name, False
            try:
                new = probe_source(session, builder, source)
            except ProbingStopped as stop:
                where = f"before {stop}; what is done is in {session.store.directory}"
                raise signals.stopped(signals.received, where) from None
            except EXPECTED as failure:
                failures[name] = reason(failure)
                if len(sources) > 1:
                    log.error("%s was not probed: %s", name, failures[name])
            if session.store.done(name):
                session.log_checkpoint(name, new=new or not logged)
    results = session.store.results()
    if len(results):
        session.finish()
        report(run, session.log, view)
        for name, (error, majority) in baselines_above_majority(results).items():
            log.warning(
                "The %s errs on %s, more than the majority class (%s). Perhaps test samples are like training samples "
                "of another class, as where texts come in pairs. Keep together what belongs together: "
                "data.group=COLUMN",
                name, percent_text(error, 1), percent_text(majority, 1),
            )  # fmt: skip
    if failures and len(sources) == 1:
        raise RuntimeError(failures[name])
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(sources)} checkpoints were not probed: {', '.join(failures)}.")
    return summary(cfg, results)


def probe_source(session: ProbeSession, builder: Builder, source: Source) -> bool:
    """Build a network and its data, and probe every layer that has no result yet.

    Before it come the features that the data have without a network, such as the words of a text, each once: a data
    module's method `baselines` names them, and each goes under the checkpoint of its name.

    Returns:
        Whether there was anything left to do.

    Raises:
        ProbingStopped: Where a signal has come; it is answered before the next layer.
    """
    file, info = source
    checkpoint = builder.open(source)
    config = builder.config(checkpoint)
    own = None if builder.is_fresh(info) else file
    entry = Entry(str(own or info.name), file_hash(own) if own else "", config)
    if session.is_complete(info.name, entry, force=builder.cfg.force):
        log.info("%s has been probed already; force=true probes it again.", info.name)
        return False
    built = builder.build(checkpoint, config)
    if (baselines := getattr(built.datamodule, "baselines", None)) is not None:
        session.check_layers(built.network, built.data, built.protocol, precision=built.precision)
        for name, features in baselines().items():
            if not session.store.done(name):
                of_features = built.protocol.for_features()
                session.probe(nn.Identity(), features, of_features, CheckpointInfo(name), plan=False)
    session.probe(built.network, built.data, built.protocol, info, precision=built.precision, entry=entry)
    return True


@dataclass(frozen=True)
class Built:
    """What a checkpoint and the configuration build."""

    network: nn.Module
    datamodule: Any
    data: Data
    protocol: ProbeProtocol
    precision: Precision


class Builder:
    """Builds networks and data of what their checkpoints and the command line say."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.resources: Resources = hydra.utils.instantiate(resources_of(cfg.probe))
        self._data: tuple[Any, pl.LightningDataModule | None, Data] = (None, None, {})

    def is_fresh(self, info: CheckpointInfo) -> bool:
        """Tell whether a network is to have random weights, whatever its checkpoint or its configuration says."""
        return bool(self.cfg.untrained) and info is _RANDOM

    def open(self, source: Source) -> FrozenCheckpoint:
        """Read a checkpoint; a network that is probed as it is built has an empty one."""
        file, info = source
        if file is None:
            return FrozenCheckpoint(info, {}, {})
        found = replace(load(file, trust=self.cfg.trust_checkpoint), info=info)
        return replace(found, state_dict={}) if self.is_fresh(info) else found

    def config(self, checkpoint: FrozenCheckpoint) -> dict[str, Any]:
        """Return what a result depends on besides the weights, of plain values."""
        own, cfg = checkpoint.config, with_revision(self.cfg, checkpoint.info)
        config: dict[str, Any] = {}
        for name in ("model", "data"):
            part = plain(cfg[name])
            of_file = own.get(name)
            if isinstance(of_file, Mapping) and part.get("_target_") in (None, of_file.get("_target_")):
                source = f"The checkpoint {checkpoint.info.name!r}"
                part = merged(name, of_file, part, source, trust=cfg.trust_checkpoint)
            config[name] = part
        for name, part in config.items():
            if "_target_" not in part:
                raise ValueError(
                    f"Nothing says what {name} to build for the checkpoint {checkpoint.info.name!r}. Choose one "
                    f"of conf/{name}, {name}=NAME, or any class: '+{name}._target_=package.Class' and its arguments."
                )
        precision = cfg.trainer.get("precision") or plain_precision(own) or "32-true"
        if self.is_fresh(checkpoint.info):
            config["model"] = with_random_weights(config["model"], hydra.utils.get_object)
        loaders: Any = OmegaConf.to_container(cfg.loaders, resolve=True)
        config["probe"] = read_as_in_run(plain_probe(cfg.probe), checkpoint, trust=cfg.trust_checkpoint)
        config["loaders"] = loaders_of(loaders, checkpoint)
        return config | {"precision": precision, "seed": cfg.seed, "prefix": cfg.prefix}

    def _read(self, config: Mapping[str, Any]) -> tuple[pl.LightningDataModule | None, Data]:
        """Read the data once for all checkpoints that have the same."""
        wanted = (config["data"], config["loaders"])
        if self._data[0] != wanted:
            own, tests = without_tests(config["data"])
            datamodule, further = hydra.utils.instantiate(own), hydra.utils.instantiate(dict(tests), _convert_="all")
            data = with_tests(splits_of_datamodule(datamodule, config["loaders"]), further)
            self._data = wanted, datamodule, data
        return self._data[1:]

    def build(self, checkpoint: FrozenCheckpoint, config: Mapping[str, Any]) -> Built:
        """Build the network with the checkpoint's weights, where the trainer puts it; data, sweep and precision.

        Raises:
            TypeError: Where what is built is no network.
        """
        pl.seed_everything(self.cfg.seed, workers=True, verbose=False)
        datamodule, data = self._read(config)
        part = config["model"]
        parameters = inspect.signature(hydra.utils.get_object(part["_target_"])).parameters
        said = {*part, *BY_HAND}
        kept = {k: v for k, v in checkpoint.hyper_parameters.items() if k in parameters and k not in said}
        network = hydra.utils.instantiate(part, _partial_=True)(**kept) if kept else hydra.utils.instantiate(part)
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"model._target_={part['_target_']} gave a {type(network).__name__}, expected a network "
                "(torch.nn.Module). Name its class or a function that returns it, without _partial_."
            )
        if checkpoint.state_dict:
            put_weights(network, checkpoint.state_dict, prefix=self.cfg.prefix)
        settings: Any = OmegaConf.to_container(self.cfg.trainer, resolve=True)
        settings |= {"precision": config["precision"], "logger": False, "callbacks": []}
        trainer: pl.Trainer = hydra.utils.instantiate(settings)
        if isinstance(network, pl.LightningModule):
            network.trainer = trainer  # some ask it for the epoch in their forward pass
        network = trainer.precision_plugin.convert_module(network)
        if getattr(network, "hf_device_map", None) is None and trainer.strategy.root_device.type != "cpu":
            network.to(trainer.strategy.root_device)
        protocol = of_population(hydra.utils.instantiate(protocol_of(OmegaConf.create(config["probe"]))), datamodule)
        protocol = with_batch_hooks(protocol, network, datamodule, trainer)
        return Built(network, datamodule, data, protocol, trainer.precision_plugin)
