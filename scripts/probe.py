"""Probe every layer of frozen networks: checkpoints of anyone, or a network as it is built."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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

from layerprobe.config import register
from layerprobe.probing.batches import Data
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.plan import make_plan
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.report.depth_view import DepthView
from layerprobe.report.figures import write_run_figures
from layerprobe.report.plan_table import plan_table
from layerprobe.report.terminal import results_table
from layerprobe.results.ledger import Entry, Ledger
from layerprobe.results.store import ProbeStore
from layerprobe.results.summary import RunSummary, best_layer
from layerprobe.results.wandb_sink import finish_run
from layerprobe.shard import share
from layerprobe.training.checkpoints import FrozenCheckpoint, content_hash, load
from layerprobe.training.find import find_checkpoints
from layerprobe.training.log import ProbeLog
from layerprobe.training.plan import announce
from layerprobe.training.precision import with_converted_inputs
from layerprobe.training.progress import ProbeProgress
from layerprobe.training.splits import splits_of_datamodule
from layerprobe.training.weights import put_weights
from layerprobe.types import CheckpointInfo

log = logging.getLogger("layerprobe")

# Lightning's own advertisements, and its use of an API that torch is about to drop.
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*LeafSpec.*")

Source = tuple[Path | None, CheckpointInfo]
PRETRAINED: Source = (None, CheckpointInfo("pretrained"))
"""What stands for a checkpoint where the network is probed as it is built."""

EXPECTED = (ValueError, TypeError, LookupError, OSError, RuntimeError, InstantiationException)
"""What a wrong file or a wrong word on the command line leads to."""


@hydra.main(version_base="1.3", config_path="../conf", config_name="probe")
def main(cfg: DictConfig) -> None:
    run_dir, overrides = Path(cfg.run_dir), list(HydraConfig.get().overrides.task)
    try:
        name, error = run(cfg, run_dir)
    except BaseException as failure:
        finish_run(exit_code=1)
        RunSummary("failed", overrides, error=f"{type(failure).__name__}: {failure}".splitlines()[0]).write(run_dir)
        if isinstance(failure, EXPECTED):
            log.debug("Traceback", exc_info=True)
            raise CompactHydraException(reason(failure)) from None
        raise
    finish_run()
    if not cfg.plan:
        RunSummary("done", overrides, {"probe/best_layer_test_error": error}, name).write(run_dir)


def run(cfg: DictConfig, run_dir: Path) -> tuple[str, float]:
    """Probe, log and report.

    Args:
        cfg: The configuration.
        run_dir: Where it writes.

    Returns:
        Name and test error of the layer that validation prefers at the last checkpoint.

    Raises:
        RuntimeError: Where a checkpoint could not be probed, after the others have been.
    """
    trusted = cfg.trust_checkpoint
    sources: Sequence[Source] = find_checkpoints(cfg.checkpoint, trust=trusted) if cfg.checkpoint else [PRETRAINED]
    sources = share(sources, cfg.shard)
    store = ProbeStore(run_dir / "probes")
    session = Session(cfg, store, Ledger(store.directory))
    if cfg.plan:
        session.plan(sources[0])
        return "", math.nan
    store.prepare()
    loggers = list(hydra.utils.instantiate(cfg.logger, _convert_="all").values())
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    view: DepthView = hydra.utils.instantiate(cfg.report)
    sinks, failures = ProbeLog(loggers), {}
    for source in sources:
        name = source[1].name
        try:
            session.probe(source)
        except EXPECTED as failure:
            failures[name] = reason(failure)
            if len(sources) > 1:
                log.error("%s was not probed: %s", name, failures[name])
        if store.done(name):
            results = store.results()
            sinks.checkpoint(results[results["checkpoint"] == name])
    results = store.results()
    if len(results):
        sinks.finish(store)
        sinks.figures(write_run_figures(store.directory, run_dir / "figures", view))
        Console().print(results_table(results))
        if (distance := view.distance(results, run_dir / "figures")) is not None:
            Console().print(distance)
        log.info("Results: %s", store.directory / "results.parquet")
        log.info("Figures: %s", run_dir / "figures")
    if failures and len(sources) == 1:
        raise RuntimeError(failures[name])
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(sources)} checkpoints were not probed: {', '.join(failures)}.")
    return best_layer(results)


@dataclass
class Session:
    """What the checkpoints of one call share.

    Attributes:
        cfg: The configuration.
        store: Where the results go.
        ledger: What is in there.
        planned: Whether it has been said what a checkpoint will take.
    """

    cfg: DictConfig
    store: ProbeStore
    ledger: Ledger
    planned: bool = False
    _data: tuple[Any, pl.LightningDataModule | None, Data] = (None, None, {})

    def probe(self, source: Source) -> None:
        """Build a network and its data, and probe every layer that has no result yet.

        Args:
            source: The checkpoint's file and name, or `PRETRAINED`.
        """
        file, info = source
        checkpoint = self._open(source)
        config = self._config(checkpoint)
        entry = Entry(str(file or info.name), content_hash(file) if file else "", config)
        if self.cfg.force:
            self.store.forget(info.name)
        elif self.ledger.is_complete(info.name, entry, has_results=bool(self.store.done(info.name))):
            log.info("%s has been probed already; force=true probes it again.", info.name)
            return
        network, data, protocol, precision = self._build(checkpoint, config)
        self.ledger.write(info.name, entry)
        if not self.planned:
            self.planned = True
            done, inputs = self.store.done(info.name), with_converted_inputs(protocol, precision)
            announce(network, data, inputs, precision.forward_context, done=done)
        probe_baselines(self._data[1], protocol, self.store)
        with ProbeProgress(f"Probing {info.name}") as bar:
            for result in probe_checkpoint(
                network,
                data,
                with_converted_inputs(protocol, precision),
                info,
                done=self.store.done(info.name),
                context=precision.forward_context,
                on_progress=bar,
            ):
                self.store.add(result)
        self.store.merge()
        self.ledger.write(info.name, replace(entry, complete=True))

    def plan(self, source: Source) -> None:
        """Print what would be probed, and what it would cost.

        Args:
            source: The checkpoint's file and name, or `PRETRAINED`.
        """
        checkpoint = self._open(source)
        network, data, protocol, precision = self._build(checkpoint, self._config(checkpoint))
        found = make_plan(network, data, with_converted_inputs(protocol, precision), precision.forward_context)
        layers = pd.DataFrame([asdict(layer) for layer in found.layers])
        layers["shape"] = ["x".join(map(str, shape)) for shape in layers["shape"]]
        console = Console()
        console.print(plan_table(layers))
        for line in found.lines():
            console.print(f"{source[1].name}: {line}", highlight=False, soft_wrap=True)

    def _open(self, source: Source) -> FrozenCheckpoint:
        file, info = source
        if file is None:
            return FrozenCheckpoint(info, {}, {})
        return replace(load(file, trust=self.cfg.trust_checkpoint), info=info)

    def _config(self, checkpoint: FrozenCheckpoint) -> dict[str, Any]:
        """What a result depends on besides the weights, of plain values."""
        own, cfg = checkpoint.config, self.cfg
        config = {name: _merged(cfg[name], own.get(name)) for name in ("model", "data")}
        for name, part in config.items():
            if "_target_" not in part:
                raise ValueError(
                    f"Nothing says what {name} to build for the checkpoint {checkpoint.info.name!r}. Choose one "
                    f"of conf/{name}, {name}=NAME, or any class: '+{name}._target_=package.Class' and its arguments."
                )
        precision = cfg.trainer.get("precision") or own.get("trainer", {}).get("precision") or "32-true"
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
        _, data = self._read(config)
        part = config["model"]
        parameters = inspect.signature(hydra.utils.get_object(part["_target_"])).parameters
        kept = {k: v for k, v in checkpoint.hyper_parameters.items() if k in parameters and k not in part}
        network = hydra.utils.instantiate(part, _partial_=True)(**kept) if kept else hydra.utils.instantiate(part)
        if checkpoint.state_dict:
            put_weights(network, checkpoint.state_dict, prefix=self.cfg.prefix)
        settings: Any = OmegaConf.to_container(self.cfg.trainer, resolve=True)
        settings |= {"precision": config["precision"], "logger": False, "callbacks": []}
        trainer: pl.Trainer = hydra.utils.instantiate(settings)
        network = trainer.precision_plugin.convert_module(network)
        if getattr(network, "hf_device_map", None) is None and trainer.strategy.root_device.type != "cpu":
            network.to(trainer.strategy.root_device)
        return network, data, hydra.utils.instantiate(self.cfg.probe), trainer.precision_plugin


def _merged(given: DictConfig, own: Mapping[str, Any] | None) -> Any:
    """What the command line says, on top of what the checkpoint says where the class is the same."""
    if own and "_target_" not in given:
        return OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(dict(own)), given), resolve=True)
    return OmegaConf.to_container(given, resolve=True, throw_on_missing=True)


def reason(error: BaseException) -> str:
    """What went wrong, without what Hydra says around it."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return str(error) if isinstance(error, ValueError | OSError | RuntimeError) else f"{type(error).__name__}: {error}"


def probe_baselines(datamodule: pl.LightningDataModule | None, protocol: ProbeProtocol, store: ProbeStore) -> None:
    """Probe the features that data have without a network, such as the words of a text, each once.

    Args:
        datamodule: Data, perhaps with a method `baselines` that names such features.
        protocol: The sweep.
        store: Where the results go, each under the checkpoint of its name.
    """
    for name, features in getattr(datamodule, "baselines", dict)().items():
        if not store.done(name):
            with ProbeProgress(f"Probing {name}") as bar:
                found = probe_checkpoint(
                    nn.Identity(), features, protocol.for_features(), CheckpointInfo(name), on_progress=bar
                )
                for result in found:
                    store.add(result)


if __name__ == "__main__":
    register()
    main()
