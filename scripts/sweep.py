"""Look at a sweep, or go on with it."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from layerprobe.report.status_table import status_table
from layerprobe.results.merge import merge_results
from layerprobe.results.record import SchemaError
from layerprobe.results.summary import RunSummary
from layerprobe.results.sweep_record import SweepRecord
from layerprobe.status import job_states


@hydra.main(version_base="1.3", config_path="../conf", config_name="sweep")
def main(cfg: DictConfig) -> None:
    chosen = cfg["continue"] or cfg.status or cfg.merge
    if not chosen:
        raise SystemExit("Give the directory of a sweep: sweep.py status=DIR, continue=DIR or merge=DIR")
    try:
        record = SweepRecord.read(Path(chosen).absolute())
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error
    if cfg.merge:
        try:
            count = merge_results(shares(record), record.directory / "probes")
        except (FileNotFoundError, SchemaError) as error:
            raise SystemExit(str(error)) from error
        print(f"{count} results: {record.directory / 'probes' / 'results.parquet'}")
        return
    if cfg["continue"]:
        command = [*record.command, *([f"rerun={cfg.rerun}"] if cfg.rerun else [])]
        print(f"Going on: {shlex.join(command)}", flush=True)
        os.chdir(record.cwd)
        os.execv(sys.executable, [sys.executable, *command])
    Console().print(status_table(job_states(record)))


def shares(record: SweepRecord) -> list[Path]:
    """The results of a sweep's jobs; without those of jobs that are done and had nothing to do.

    Args:
        record: The sweep.
    """

    def had_nothing_to_do(folder: Path) -> bool:
        summary = RunSummary.read(folder)
        return summary is not None and summary.status == "done" and not summary.metrics

    return [folder / "probes" for folder in record.folders() if not had_nothing_to_do(folder)]


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    main()
