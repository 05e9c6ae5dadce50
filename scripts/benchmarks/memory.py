"""Measure the memory that probing takes at several budgets, all features of a layer kept.

Each budget has a process of its own. What it took is the most that was ever resident, less what was before probing.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import psutil
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from peers import in_splits, mnist_samples
from recording import peak_resident
from rich.console import Console
from rich.table import Table

from layerprobe.api.probe import probe
from layerprobe.models.mnist_convnet import MnistConvNet
from layerprobe.probing.features.free_memory import memory_budget
from layerprobe.probing.features.reducers import Flatten
from layerprobe.probing.solvers.logistic import Logistic

log = logging.getLogger("layerprobe")


@hydra.main(version_base="1.3", config_path="../../conf", config_name="benchmark/memory")
def main(cfg: DictConfig) -> None:
    directory = Path(HydraConfig.get().runtime.output_dir)
    rows: list[dict[str, Any]] = []
    table = Table(title=f"{cfg.n:,} samples, {torch.get_num_threads()} threads")
    for name in ("budget", "peak", "share", "seconds", "layers", "features", "test errors", "worst gap"):
        table.add_column(name, justify="right")
    for budget in cfg.budgets:
        # A fresh process: the most that was resident never falls, and freed memory stays with its process.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            try:
                row = pool.apply(measured, (OmegaConf.to_container(cfg, resolve=True), budget))
            except ValueError as refused:
                log.info("%s: %s", budget, refused)
                continue
        rows.append(row)
        pd.DataFrame(rows).to_csv(directory / "memory.csv", index=False)
        table.add_row(
            str(budget),
            f"{row['peak'] / 2**30:.2f} GiB",
            f"{row['peak'] / row['budget']:.0%}",
            f"{row['seconds']:.0f}",
            str(row["layers"]),
            f"{row['features']:,}",
            row["test_errors"],
            f"{row['gap']:.0e}",
        )
    Console().print(table)


def measured(cfg: dict[str, Any], budget: str) -> dict[str, Any]:
    """Probe within one budget.

    Args:
        cfg: The configuration of the script.
        budget: What probing may take.

    Returns:
        The budget and the peak in bytes, the time, and what was found.
    """
    torch.manual_seed(cfg["seed"])
    network = MnistConvNet()
    n = cfg["n"]
    images, labels = mnist_samples(cfg["mnist"], n + n // 5)
    data = in_splits(images, labels, n)
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    results = probe(
        network,
        data,
        layers=cfg["layers"],
        reducer=Flatten(),
        solver=Logistic(tolerance=cfg["tolerance"]),
        l2=cfg["l2"],
        batch_size=250,
        max_memory=budget,
        progress=False,
    )
    return {
        "budget": memory_budget(budget),
        "peak": peak_resident() - before,
        "seconds": time.perf_counter() - start,
        "layers": len(results),
        "features": int(results["n_features"].max()),
        "test_errors": " ".join(f"{error:.4f}" for error in results["test_error"]),
        "gap": float(results["gap"].max()),
    }


if __name__ == "__main__":
    main()
