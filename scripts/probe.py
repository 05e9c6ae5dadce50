"""Probe every layer of frozen checkpoints."""

from __future__ import annotations

import glob
import logging
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from layerprobe.config import register
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.report.figures import write_run_figures
from layerprobe.report.terminal import results_table
from layerprobe.results.store import ProbeStore
from layerprobe.training.checkpoints import FrozenCheckpoint, load
from layerprobe.training.progress import ProbeProgress
from layerprobe.training.splits import splits_of_datamodule

log = logging.getLogger("layerprobe")


@hydra.main(version_base="1.3", config_path="../conf", config_name="probe")
def main(cfg: DictConfig) -> None:
    checkpoints = find_checkpoints(cfg.checkpoint)
    store = ProbeStore(Path(cfg.run_dir) / "probes")
    store.prepare()
    for checkpoint in checkpoints:
        probe(checkpoint, cfg, store)
    write_run_figures(store.directory, Path(cfg.run_dir) / "figures")
    Console().print(results_table(store.results()))
    log.info("Results: %s", store.directory / "results.parquet")


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
    """Rebuild a network and its data, and probe every layer.

    Args:
        checkpoint: The checkpoint.
        cfg: The configuration of the script.
        store: Where the results go.

    Raises:
        ValueError: Where neither the checkpoint nor the command line says what network or data to build.
    """
    parts = {}
    for name in ("data", "model"):
        part = cfg[name] or checkpoint.config.get(name)
        if not part:
            raise ValueError(
                f"The checkpoint {checkpoint.info.name!r} does not say which {name} it belongs to. "
                f"Give it: '+{name}._target_=package.Class' and its arguments."
            )
        parts[name] = hydra.utils.instantiate(part)
    parts["model"].load_state_dict(checkpoint.state_dict)
    protocol = hydra.utils.instantiate(cfg.probe)
    data = splits_of_datamodule(parts["data"])
    with ProbeProgress(f"Probing {checkpoint.info.name}") as bar:
        for result in probe_checkpoint(parts["model"], data, protocol, checkpoint.info, on_progress=bar):
            store.add(result)
    store.merge()


if __name__ == "__main__":
    register()
    main()
