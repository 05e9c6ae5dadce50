"""Probe every layer of frozen networks: checkpoints of anyone, or a network as it is built."""

from __future__ import annotations

import math
import sys

import hydra
from omegaconf import DictConfig

from layerprobe.config import as_typed, register
from layerprobe.jobs.config_check import checked
from layerprobe.jobs.entry_point import run_script
from layerprobe.jobs.lifecycle import Expected, Work, run_job


@hydra.main(version_base="1.3", config_path="../conf", config_name="probe")
def main(cfg: DictConfig) -> float:
    if cfg.plan:
        checked(cfg, whole=False)
        from layerprobe.jobs.probe import plan

        plan(cfg)
        return math.nan
    return run_job(cfg, work, goes_on=True)


def work() -> tuple[Work, Expected]:
    from layerprobe.jobs.probe import EXPECTED, probe

    return probe, EXPECTED


if __name__ == "__main__":
    sys.argv[1:] = as_typed(sys.argv[1:])
    register("probe")
    run_script(main)
