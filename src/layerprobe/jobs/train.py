"""The training of one run, with its probes and its report."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from layerprobe.compat.lightning import silence_lightning
from layerprobe.files.errors import DamagedFileError, aside
from layerprobe.formatting import nearest
from layerprobe.jobs.configured_test_sets import without_tests
from layerprobe.jobs.lifecycle import continue_command
from layerprobe.jobs.run_report import report, summary
from layerprobe.models.classifier import trainable
from layerprobe.report.depth_curve_options import DepthView
from layerprobe.results.run_directory import RunDirectory
from layerprobe.results.run_summary import RunSummary
from layerprobe.results.store import ProbeStore
from layerprobe.training.callback import ProbeCallback
from layerprobe.training.checkpoints import check_goes_on, damage, load
from layerprobe.training.collectives import leaving
from layerprobe.training.lightning_splits import is_default_hook
from layerprobe.training.probe_log import ProbeLog, start_runs

log = logging.getLogger("layerprobe")

silence_lightning()
logging.getLogger("pytorch_lightning.trainer.connectors.checkpoint_connector").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # as a run that goes on

EXPECTED = (ValueError, OSError, InstantiationException, MisconfigurationException)
"""What a wrong file or a wrong word on the command line leads to, besides what layerprobe says itself."""

MATMUL_PRECISIONS = ("highest", "high", "medium")


@leaving()
def train(cfg: DictConfig, run: RunDirectory) -> RunSummary:
    """Train, test, probe and report one run, from where it has got to.

    Returns:
        How it ended: the network's metrics, the best layer and its test error.
    """
    config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    if cfg.matmul_precision not in MATMUL_PRECISIONS:
        raise ValueError(
            f"matmul_precision is {cfg.matmul_precision!r}. {nearest(cfg.matmul_precision, MATMUL_PRECISIONS)}"
        )
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    own, _ = without_tests(config["data"])  # the callback reads the others
    datamodule: pl.LightningDataModule = hydra.utils.instantiate(own)
    rule, schedule = hydra.utils.instantiate(cfg.optimizer), hydra.utils.instantiate(cfg.scheduler)
    model = trainable(hydra.utils.instantiate(cfg.model), rule, schedule)
    trainer: pl.Trainer = hydra.utils.instantiate(cfg.trainer)
    view: DepthView = hydra.utils.instantiate(cfg.report)
    start_runs(trainer.loggers)
    for logger in trainer.loggers:
        logger.log_hyperparams(config)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ProbeCallback):
            callback.config = config
    last = run.checkpoint if run.checkpoint.exists() else None
    if last is None and cfg.ckpt_path is not None:
        (check_goes_on if cfg.train else load)(Path(cfg.ckpt_path), trust=cfg.trust_checkpoint)
    if last is not None:
        if problem := damage(last):
            raise DamagedFileError(last, problem, _without(last, run))
        log.info("Going on from %s", last)
    if cfg.train:
        trainer.fit(model, datamodule=datamodule, ckpt_path=last or cfg.ckpt_path)
    else:  # what is tested needs none of the callbacks that it was trained with
        warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks used")
    if cfg.test and is_default_hook(model.test_step):
        log.info("The network itself is not measured on test: %s has no test_step().", type(model).__name__)
    elif cfg.test:
        trainer.test(model, datamodule=datamodule, ckpt_path=None if cfg.train else cfg.ckpt_path, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    log.info("Network: %s", ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    probes = run.path / "probes"
    if not trainer.is_global_zero or not probes.is_dir() or ProbeStore(probes).results().empty:
        return RunSummary("done", list(HydraConfig.get().overrides.task), metrics)
    return summary(cfg, report(run, ProbeLog(trainer.loggers), view), metrics)


def _without(last: Path, run: RunDirectory) -> str:
    """Say what is left to a run whose `last.ckpt` is damaged."""
    results = ProbeStore(run.path / "probes").results()
    return (
        f"The training cannot go on from it, only begin again. Intact: {len(results)} results of "
        f"{results['checkpoint'].nunique()} checkpoints in {run.path / 'probes'}; a layer whose network comes out the "
        f"same is not probed again. To begin again: {aside(last)} && {continue_command()}"
    )
