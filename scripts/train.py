"""Train a network, freeze checkpoints, probe every layer of each, and log the test error of every layer."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from layerprobe.config import register
from layerprobe.report.depth_view import DepthView
from layerprobe.report.figures import write_run_figures
from layerprobe.report.terminal import results_table
from layerprobe.results.store import ProbeStore
from layerprobe.results.summary import RunSummary, best_layer
from layerprobe.results.wandb_sink import finish_run
from layerprobe.training.log import ProbeLog

log = logging.getLogger("layerprobe")

# Lightning's own advertisements, and its use of an API that torch is about to drop.
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*LeafSpec.*")
warnings.filterwarnings("ignore", message=".*does not have many workers.*")


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> None:
    run_dir, overrides = Path(cfg.run_dir), list(HydraConfig.get().overrides.task)
    try:
        metrics, best_layer = run(cfg, run_dir)
    except BaseException as error:
        finish_run(exit_code=1)
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        RunSummary("failed", overrides, error=reason).write(run_dir)
        raise
    finish_run()
    RunSummary("done", overrides, metrics, best_layer).write(run_dir)


def run(cfg: DictConfig, run_dir: Path) -> tuple[dict[str, float], str]:
    """Train, test, probe and report one run.

    Args:
        cfg: The run's configuration.
        run_dir: Where it writes.

    Returns:
        The network's metrics and the best layer's test error; and the name of that layer.
    """
    config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    datamodule: pl.LightningDataModule = hydra.utils.instantiate(cfg.data)
    model: pl.LightningModule = hydra.utils.instantiate(cfg.model)
    trainer: pl.Trainer = hydra.utils.instantiate(cfg.trainer)
    view: DepthView = hydra.utils.instantiate(cfg.report)
    for logger in trainer.loggers:
        logger.log_hyperparams(config)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if hasattr(callback, "config"):
            callback.config = config
    trainer.fit(model, datamodule=datamodule)
    trainer.test(model, datamodule=datamodule, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    log.info("Network: %s", ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    best_layer = ""
    if (run_dir / "probes").is_dir():
        best_layer, metrics["probe/best_layer_test_error"] = report(run_dir, trainer, view)
    return metrics, best_layer


def report(run_dir: Path, trainer: pl.Trainer, view: DepthView) -> tuple[str, float]:
    """Draw, print and log what the probes found.

    Args:
        run_dir: The run's directory.
        trainer: The trainer, for its loggers.
        view: What the figure over depth shows.

    Returns:
        Name and test error of the layer that validation prefers at the last checkpoint.
    """
    store = ProbeStore(run_dir / "probes")
    results = store.results()
    figures = write_run_figures(run_dir / "probes", run_dir / "figures", view)
    ProbeLog(trainer.loggers).figures(figures)
    Console().print(results_table(results))
    if (distance := view.distance(results, run_dir / "figures")) is not None:
        Console().print(distance)
    log.info("Results: %s", run_dir / "probes" / "results.parquet")
    log.info("Figures: %s", run_dir / "figures")
    return best_layer(results)


if __name__ == "__main__":
    register()
    main()
