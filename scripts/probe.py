"""Probe every layer of frozen networks: checkpoints of anyone, or a network as it is built."""

from __future__ import annotations

import math
import sys

import hydra
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from layerprobe.composing import run_script
from layerprobe.config import as_typed, register
from layerprobe.jobs.job import attended, checked, explained, refused
from layerprobe.results.run_directory import RunDirectory


@hydra.main(version_base="1.3", config_path="../conf", config_name="probe")
def main(cfg: DictConfig) -> float:
    from layerprobe.jobs.probe import EXPECTED, plan, probe

    run = RunDirectory(cfg.run_dir)
    try:
        checked(cfg, whole=False)
    except CompactHydraException as error:
        if cfg.plan:
            raise
        return refused(cfg, run, error)
    if cfg.plan:
        plan(cfg)
        return math.nan
    with explained(), run.claimed():
        return attended(cfg, run, probe, EXPECTED)


if __name__ == "__main__":
    sys.argv[1:] = as_typed(sys.argv[1:])
    register()
    run_script(main)
