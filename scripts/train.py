"""Train a network, freeze checkpoints, probe every layer of each, and log the test error of every layer."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from layerprobe.config import as_typed, register
from layerprobe.jobs.entry_point import run_script
from layerprobe.jobs.lifecycle import Expected, Work, run_job


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> float:
    return run_job(cfg, work)


def work() -> tuple[Work, Expected]:
    from layerprobe.jobs.train import EXPECTED, train

    return train, EXPECTED


if __name__ == "__main__":
    sys.argv[1:] = as_typed(sys.argv[1:])
    register("train")
    run_script(main)
