"""A script whose jobs take a moment: it writes down the device that it was given, and what its job came to."""

from __future__ import annotations

import os
import time
from pathlib import Path

import hydra
from omegaconf import DictConfig

from layerprobe.config import register
from layerprobe.jobs.lifecycle import run_job
from layerprobe.results.run_directory import RunDirectory
from layerprobe.results.run_summary import RunSummary


@hydra.main(version_base="1.3", config_path=None, config_name="app")
def main(cfg: DictConfig) -> float:
    return run_job(cfg, lambda: (work, ()))


def work(cfg: DictConfig, run: RunDirectory) -> RunSummary:
    marks = Path(cfg.marks)
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    with open(marks, "a") as file:
        file.write(f"begin {cfg.number} {device} {time.time()} {os.getpid()}\n")
    if cfg.number == cfg.broken:
        raise ValueError("this one is broken")
    while cfg.number == cfg.slow and not (run.path / "go").exists():
        time.sleep(0.05)
    with open(marks, "a") as file:
        file.write(f"end {cfg.number} {device} {time.time()} {os.getpid()}\n")
    return RunSummary("done", [f"number={cfg.number}"], {"value": cfg.number**2}, objective=float(cfg.number**2))


if __name__ == "__main__":
    from hydra.core.config_store import ConfigStore

    register()
    ConfigStore.instance().store(
        name="app",
        node={
            "number": 0, "broken": -1, "slow": -1, "marks": "???", "run_dir": "${hydra:runtime.output_dir}",
            "run_id": None, "rerun": None,
            "hydra": {"callbacks": {"table": {"_target_": "layerprobe.jobs.sweep_callbacks.SweepTable"}}},
        },
    )  # fmt: skip
    main()
