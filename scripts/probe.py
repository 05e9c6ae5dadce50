"""Probe every layer of frozen networks: checkpoints, or a network as it is built."""

from __future__ import annotations

import glob
import logging
import warnings
from pathlib import Path

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from layerprobe.config import register
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.report.depth_view import DepthView
from layerprobe.report.figures import write_run_figures
from layerprobe.report.terminal import results_table
from layerprobe.results.store import ProbeStore
from layerprobe.results.summary import RunSummary, best_layer
from layerprobe.results.wandb_sink import finish_run
from layerprobe.training.checkpoints import FrozenCheckpoint, load
from layerprobe.training.log import ProbeLog
from layerprobe.training.progress import ProbeProgress
from layerprobe.training.splits import splits_of_datamodule
from layerprobe.types import CheckpointInfo

log = logging.getLogger("layerprobe")

# Lightning's own advertisements, and its use of an API that torch is about to drop.
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*LeafSpec.*")

PRETRAINED = FrozenCheckpoint(CheckpointInfo("pretrained"), {}, {})
"""What stands for a checkpoint where the network is probed as it is built."""


@hydra.main(version_base="1.3", config_path="../conf", config_name="probe")
def main(cfg: DictConfig) -> None:
    run_dir, overrides = Path(cfg.run_dir), list(HydraConfig.get().overrides.task)
    try:
        name, error = run(cfg, run_dir)
    except BaseException as failure:
        finish_run(exit_code=1)
        reason = f"{type(failure).__name__}: {failure}".splitlines()[0]
        RunSummary("failed", overrides, error=reason).write(run_dir)
        raise
    finish_run()
    RunSummary("done", overrides, {"probe/best_layer_test_error": error}, name).write(run_dir)


def run(cfg: DictConfig, run_dir: Path) -> tuple[str, float]:
    """Probe, log and report.

    Args:
        cfg: The configuration.
        run_dir: Where it writes.

    Returns:
        Name and test error of the layer that validation prefers at the last checkpoint.
    """
    checkpoints = find_checkpoints(cfg.checkpoint) if cfg.checkpoint else [PRETRAINED]
    store = ProbeStore(run_dir / "probes")
    store.prepare()
    trainer: pl.Trainer = hydra.utils.instantiate(cfg.trainer)
    view: DepthView = hydra.utils.instantiate(cfg.report)
    sinks = ProbeLog(trainer.loggers)
    for checkpoint in checkpoints:
        probe(checkpoint, cfg, store)
        results = store.results()
        sinks.checkpoint(results[results["checkpoint"] == checkpoint.info.name])
    sinks.finish(store)
    sinks.figures(write_run_figures(store.directory, run_dir / "figures", view))
    Console().print(results_table(store.results()))
    if (distance := view.distance(store.results(), run_dir / "figures")) is not None:
        Console().print(distance)
    log.info("Results: %s", store.directory / "results.parquet")
    log.info("Figures: %s", run_dir / "figures")
    return best_layer(store.results())


def find_checkpoints(pattern: str) -> list[FrozenCheckpoint]:
    """Load the checkpoints that a path or a glob pattern names, in the order of their steps.

    Args:
        pattern: The path or pattern.

    Returns:
        The checkpoints.

    Raises:
        FileNotFoundError: Where there is none.
    """
    paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))] or [Path(pattern)]
    return sorted((load(path) for path in paths), key=lambda checkpoint: checkpoint.info.step)


def probe(checkpoint: FrozenCheckpoint, cfg: DictConfig, store: ProbeStore) -> None:
    """Build a network and its data, and probe every layer.

    Args:
        checkpoint: The checkpoint, or `PRETRAINED`.
        cfg: The configuration of the script.
        store: Where the results go.

    Raises:
        ValueError: Where neither the checkpoint nor the command line says what network or data to build.
    """
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    parts = {}
    for name in ("data", "model"):
        part = cfg[name] or checkpoint.config.get(name)
        if not part:
            raise ValueError(
                f"Nothing says what {name} to build for the checkpoint {checkpoint.info.name!r}. Choose it: "
                f"{name}=NAME, one of conf/{name}; or any class: '+{name}._target_=package.Class' and its arguments."
            )
        parts[name] = hydra.utils.instantiate(part)
    if checkpoint is not PRETRAINED:
        parts["model"].load_state_dict(checkpoint.state_dict)
    protocol = hydra.utils.instantiate(cfg.probe)
    data = splits_of_datamodule(parts["data"])
    probe_baselines(parts["data"], protocol, store)
    with ProbeProgress(f"Probing {checkpoint.info.name}") as bar:
        for result in probe_checkpoint(parts["model"], data, protocol, checkpoint.info, on_progress=bar):
            store.add(result)
    store.merge()


def probe_baselines(datamodule: pl.LightningDataModule, protocol: ProbeProtocol, store: ProbeStore) -> None:
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
