"""The probing of frozen networks: checkpoints of anyone, or a network as it is built."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.plugins.precision import Precision
from rich.console import Console
from torch import nn

from layerprobe.config import protocol_of, resources_of
from layerprobe.jobs.job import plain, reason
from layerprobe.jobs.shard import share
from layerprobe.probing.batches import Data
from layerprobe.probing.cost.plan import make_plan
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.report.depth_view import DepthView
from layerprobe.report.run_figures import write_run_figures
from layerprobe.report.tables.plan_table import plan_table
from layerprobe.report.tables.results_table import results_table
from layerprobe.results.best import best_layer
from layerprobe.results.manifest import Entry, Ledger
from layerprobe.results.progress import ProgressFile
from layerprobe.results.reader import Run
from layerprobe.results.run_directory import RunDirectory
from layerprobe.results.run_summary import RunSummary
from layerprobe.results.store import ProbeStore
from layerprobe.training.checkpoints import FrozenCheckpoint, content_hash, find_checkpoints, load
from layerprobe.training.dataloaders import of_population, splits_of_datamodule
from layerprobe.training.loggers import ProbeLog
from layerprobe.training.plan import announce
from layerprobe.training.precision import with_converted_inputs
from layerprobe.training.progress import ProbeProgress
from layerprobe.training.signals import StopSignals
from layerprobe.training.weights import as_built, put_weights
from layerprobe.trusted import BY_HAND, merged, plain_precision
from layerprobe.types import CheckpointInfo

log = logging.getLogger("layerprobe")

# Lightning's own advertisements, and its use of an API that torch is about to drop.
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*LeafSpec.*")

Source = tuple[Path | None, CheckpointInfo]
EXPECTED = (ValueError, TypeError, LookupError, OSError, RuntimeError, InstantiationException)
"""What a wrong file or a wrong word on the command line leads to."""


def plan(cfg: DictConfig) -> None:
    """Print what would be probed at the first checkpoint, and what it would cost.

    Args:
        cfg: The configuration.

    Raises:
        CompactHydraException: Where there is nothing that could be probed; its message says why.
    """
    try:
        Session(cfg, ProbeStore(Path(cfg.run_dir) / "probes")).plan(sources_of(cfg)[0])
    except EXPECTED as failure:
        raise CompactHydraException(reason(failure)) from None


def sources_of(cfg: DictConfig) -> Sequence[Source]:
    """Find this job's share of the checkpoints.

    Args:
        cfg: The configuration.

    Raises:
        ValueError: Where a part of a checkpoint is asked for and there is none.
    """
    if cfg.prefix and not cfg.checkpoint:
        raise ValueError(
            f"prefix={cfg.prefix} is the part of a checkpoint to take, but no checkpoint is given: the network is "
            "probed as it is built. Give checkpoint=FILE as well, or leave prefix out."
        )
    if cfg.checkpoint:
        return share(find_checkpoints(cfg.checkpoint, trust=cfg.trust_checkpoint), cfg.shard)
    model: Any = OmegaConf.to_container(cfg.model, resolve=True) if cfg.model else {}
    return share([(None, as_built(model, hydra.utils.get_object))], cfg.shard)


def probe(cfg: DictConfig, run: RunDirectory) -> RunSummary:
    """Probe, log and report.

    Args:
        cfg: The configuration.
        run: Where it writes.

    Returns:
        How it ended, with the layer that validation prefers at the last checkpoint.

    Raises:
        RuntimeError: Where a checkpoint could not be probed, after the others have been.
        Stopped: Where a signal has come; the layers that are done are kept.
    """
    overrides = list(HydraConfig.get().overrides.task)
    sources = sources_of(cfg)
    if not sources:
        log.info("Nothing to do: there are fewer checkpoints than shares (shard=%s).", cfg.shard)
        return RunSummary("done", overrides)
    store = ProbeStore(run.path / "probes")
    store.prepare()
    session = Session(cfg, store)
    logged = run.has_id  # an earlier call has logged what it probed to the same run of the dashboard
    if cfg.logger:
        cfg.run_id = cfg.run_id or run.id
    loggers = list(hydra.utils.instantiate(cfg.logger, _convert_="all").values())
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    view: DepthView = hydra.utils.instantiate(cfg.report)
    sinks, failures = ProbeLog(loggers), {}
    with session.signals.listening():
        for source in sources:
            name, new = source[1].name, False
            try:
                new = session.probe(source)
            except EXPECTED as failure:
                failures[name] = reason(failure)
                if len(sources) > 1:
                    log.error("%s was not probed: %s", name, failures[name])
            if store.done(name):
                results = store.results()
                sinks.checkpoint(results[results["checkpoint"] == name], new=new or not logged)
    results = store.results()
    if len(results):
        sinks.finish(store)
        sinks.figures(write_run_figures(Run.read(run.path), run.path / "figures", view))
        Console().print(results_table(results))
        if (distance := view.distance(results, run.path / "figures")) is not None:
            Console().print(distance)
        log.info("Results: %s", store.directory / "results.parquet")
        log.info("Figures: %s", run.path / "figures")
    if failures and len(sources) == 1:
        raise RuntimeError(failures[name])
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(sources)} checkpoints were not probed: {', '.join(failures)}.")
    best = best_layer(results)
    objective = hydra.utils.instantiate(cfg.objective)(results)
    return RunSummary(
        "done", overrides, {"probe/best_layer_test_error": best.test_error}, best.layer, objective=objective
    )


@dataclass
class Session:
    """What the checkpoints of one call share.

    Attributes:
        cfg: The configuration.
        store: Where the results go.
        signals: Those that ask to stop.
    """

    cfg: DictConfig
    store: ProbeStore
    signals: StopSignals = field(default_factory=StopSignals)
    _planned: bool = False
    _data: tuple[Any, pl.LightningDataModule | None, Data] = (None, None, {})

    def __post_init__(self) -> None:
        self._ledger = Ledger(self.store.directory)
        self._progress = ProgressFile(self.cfg.run_dir)
        self._resources: Resources = hydra.utils.instantiate(resources_of(self.cfg.probe))

    def probe(self, source: Source) -> bool:
        """Build a network and its data, and probe every layer that has no result yet.

        Args:
            source: The checkpoint's file, none where the network is probed as it is built, and name.

        Returns:
            Whether there was anything left to do.

        Raises:
            Stopped: Where a signal has come; it is answered before the next layer.
        """
        file, info = source
        checkpoint = self._open(source)
        config = self._config(checkpoint)
        entry = Entry(str(file or info.name), content_hash(file) if file else "", config)
        if self.cfg.force:
            self.store.forget(info.name)
        elif self._ledger.is_complete(info.name, entry, has_results=bool(self.store.done(info.name))):
            log.info("%s has been probed already; force=true probes it again.", info.name)
            return False
        network, data, protocol, precision = self._build(checkpoint, config)
        self._ledger.write(info.name, entry)
        probed, done = with_converted_inputs(protocol, precision), self.store.done(info.name)
        if not self._planned:
            self._planned = True
            announce(network, data, probed, precision.forward_context, resources=self._resources, done=done)
        self._probe_baselines(protocol)
        self._probe_layers(network, data, probed, info, done=done, context=precision.forward_context)
        self.store.merge()
        self._ledger.write(info.name, replace(entry, complete=True))
        return True

    def _probe_baselines(self, protocol: ProbeProtocol) -> None:
        """Probe the features that data have without a network, such as the words of a text, each once.

        A data module's method `baselines` names them; each goes under the checkpoint of its name.
        """
        for name, features in getattr(self._data[1], "baselines", dict)().items():
            if not self.store.done(name):
                self._probe_layers(nn.Identity(), features, protocol.for_features(), CheckpointInfo(name))

    def _probe_layers(
        self, network: nn.Module, data: Data, protocol: ProbeProtocol, info: CheckpointInfo, **options: Any
    ) -> None:
        """Probe what is not done; say where this process is, and stop before the next layer on a signal."""
        with ProbeProgress(f"Probing {info.name}") as bar:

            def on_progress(stage: str, i: int, total: int | None) -> None:
                bar(stage, i, total)
                layer = f"layer {i + 1} of {total}" if total else stage
                stopping = bool(self.signals.received) and i != total
                self._progress.write(at_once=stopping, checkpoint=info.name, layer=layer)
                if stopping:
                    self._stop(f"{layer} of {info.name}")

            for result in probe_checkpoint(
                network, data, protocol, info, resources=self._resources, on_progress=on_progress, **options
            ):
                self.store.add(result)

    def _stop(self, where: str) -> None:
        self.store.merge()
        raise self.signals.stopped(self.signals.received, f"before {where}; what is done is in {self.store.directory}")

    def plan(self, source: Source) -> None:
        """Print what would be probed, and what it would cost.

        Args:
            source: The checkpoint's file, none where the network is probed as it is built, and name.
        """
        checkpoint = self._open(source)
        network, data, protocol, precision = self._build(checkpoint, self._config(checkpoint))
        probed = with_converted_inputs(protocol, precision)
        found = make_plan(network, data, probed, precision.forward_context, resources=self._resources)
        layers = pd.DataFrame([asdict(layer) for layer in found.layers])
        layers["shape"] = ["x".join(map(str, shape)) for shape in layers["shape"]]
        console = Console()
        console.print(plan_table(layers))
        for line in found.lines():
            console.print(f"{source[1].name}: {line}", highlight=False, soft_wrap=True, markup=False)

    def _open(self, source: Source) -> FrozenCheckpoint:
        file, info = source
        if file is None:
            return FrozenCheckpoint(info, {}, {})
        return replace(load(file, trust=self.cfg.trust_checkpoint), info=info)

    def _config(self, checkpoint: FrozenCheckpoint) -> dict[str, Any]:
        """What a result depends on besides the weights, of plain values."""
        own, cfg = checkpoint.config, self.cfg
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
        rest = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("probe", "loaders")}
        return config | rest | {"precision": precision, "seed": cfg.seed, "prefix": cfg.prefix}

    def _read(self, config: Mapping[str, Any]) -> tuple[pl.LightningDataModule | None, Data]:
        """The data, read once for all checkpoints that have the same."""
        wanted = (config["data"], config["loaders"])
        if self._data[0] != wanted:
            datamodule = hydra.utils.instantiate(config["data"])
            self._data = wanted, datamodule, splits_of_datamodule(datamodule, config["loaders"])
        return self._data[1:]

    def _build(
        self, checkpoint: FrozenCheckpoint, config: Mapping[str, Any]
    ) -> tuple[nn.Module, Data, ProbeProtocol, Precision]:
        """The network with the checkpoint's weights, where the trainer puts it; the data, the sweep, the precision."""
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
        protocol = of_population(hydra.utils.instantiate(protocol_of(self.cfg.probe)), datamodule)
        return network, data, protocol, trainer.precision_plugin
