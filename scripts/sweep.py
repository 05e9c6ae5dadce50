"""Look at a sweep, or go on with it."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from layerprobe.files.errors import DamagedFileError
from layerprobe.formatting import nearest
from layerprobe.jobs.command_line import read_arguments
from layerprobe.jobs.job_states import job_states
from layerprobe.program import name
from layerprobe.quoting import command, override
from layerprobe.report.tables.status_table import status_table
from layerprobe.results.run_summary import RERUNS, RunSummary
from layerprobe.results.sweep_record import SweepRecord

NAME = name("sweep")
EXAMPLES = f"""
  {NAME} status=multirun/NAME/DATE      each job: waiting, running and where, done, failed, lost
  {NAME} continue=multirun/NAME/DATE    wait for what runs, send again what is lost, leave alone what is done
  {NAME} merge=multirun/probe/DATE      put the results of jobs that each probed a part into DATE/probes
  {NAME} continue=DIR rerun=failed      start the failed jobs from the beginning; rerun=all: every job
"""


@dataclass
class Arguments:
    """Look at a sweep, or go on with it.

    Attributes:
        status: A sweep whose jobs are listed.
        continue_: A sweep to go on with.
        merge: A sweep whose results are put together.
        rerun: With continue: which ended jobs start from the beginning, failed or all.
    """

    status: str | None = None
    continue_: str | None = None
    merge: str | None = None
    rerun: str | None = None


def main() -> None:
    cfg = read_arguments(Arguments, EXAMPLES)
    if cfg.rerun not in (None, *RERUNS):
        raise SystemExit(f"rerun is {cfg.rerun!r}. {nearest(str(cfg.rerun), RERUNS)}")
    chosen = [directory for directory in (cfg.continue_, cfg.status, cfg.merge) if directory]
    if len(chosen) != 1:
        raise SystemExit(f"Give the directory of one sweep: {NAME} status=DIR, continue=DIR or merge=DIR")
    try:
        record = SweepRecord.read(Path(chosen[0]).absolute())
    except (FileNotFoundError, DamagedFileError) as error:
        raise SystemExit(str(error)) from error
    if cfg.merge:
        from layerprobe.results.arrow_tables import SchemaError
        from layerprobe.results.merge import merge_results

        try:
            count = merge_results(shares(record), record.directory / "probes")
        except (FileNotFoundError, SchemaError) as error:
            raise SystemExit(str(error)) from error
        print(f"{count} results: {record.directory / 'probes' / 'results.parquet'}")
        return
    if cfg.continue_:
        go_on(record, cfg.rerun)
    Console().print(status_table(job_states(record)))


def go_on(record: SweepRecord, rerun: str | None) -> NoReturn:
    """Become the command that started a sweep, where the sweep is now.

    Args:
        record: The sweep.
        rerun: Which ended jobs start from the beginning.

    Raises:
        SystemExit: Where there is nothing to become.
    """
    script = Path(record.command[0])
    if not script.exists():  # the sweep has been moved, with the checkout or without the environment that it began in
        script = Path(__file__).with_name(script.name)
    if not script.exists() or not Path(record.cwd).is_dir():
        gone = record.cwd if script.exists() else record.command[0]
        raise SystemExit(
            f"{gone}, from where this sweep was started, is gone. Give its command again, in a folder where the paths "
            "in it are right: "
            + command(script.stem, *record.command[1:], override("hydra.sweep.dir", record.directory))
        )
    words = [str(script), *record.command[1:], override("hydra.sweep.dir", record.directory)]
    words += [f"rerun={rerun}"] if rerun else []
    print(f"Going on: {command(script.stem, *words[1:])}", flush=True)
    os.chdir(record.cwd)
    os.execv(sys.executable, [sys.executable, *words])


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
