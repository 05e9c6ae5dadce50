"""The beginning and the end of a multirun: its record, and the table of what became of its jobs.

Hydra makes a callback for `--cfg` too: what draws and tabulates is imported when there is something to show.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from layerprobe.files.errors import DamagedFileError
from layerprobe.jobs.entry_point import composed
from layerprobe.program import say
from layerprobe.quoting import command
from layerprobe.results.config_migration import current_override
from layerprobe.results.sweep_record import SweepRecord

_MOST_JOBS = 60


class SweepTable(Callback):
    """Writes down how a sweep was started, and at its end prints what every job came to.

    It leaves with exit code 1 where a job is not done. Every job is a row of `sweep.csv`.

    Args:
        over: The key whose values are repetitions of one experiment.
        yes_or_no: As for `sweep_table`; by default what it takes.
    """

    def __init__(self, over: str = "seed", yes_or_no: Sequence[str] | None = None) -> None:
        self._over = current_override(over)
        self._yes_or_no = yes_or_no
        self._claim = ExitStack()
        self._directory: Path | None = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Leave errors to the job: its configuration is composed."""
        composed()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write down the command that continues the sweep, and keep a second start of it out."""
        composed()
        directory = Path(config.hydra.sweep.dir).absolute()
        record = SweepRecord(directory)
        if not self._claim.enter_context(record.claimed()):
            raise SystemExit(
                f"A sweep is going on in {directory}. Wait for it, look at it with "
                f"{command('sweep', f'status={directory}')}, "
                "or give another directory: hydra.sweep.dir=DIR."
            )
        self._directory = directory
        try:
            record = SweepRecord.read(directory)
        except (FileNotFoundError, DamagedFileError):
            record = SweepRecord(directory)
        record.begin(sys.argv)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write down a job that runs in this process, so that it is known even if it is killed."""
        if self._directory is None:
            return
        hydra = config.hydra
        overrides = [word for word in hydra.overrides.task if not word.startswith("rerun=")]
        job = {"overrides": overrides, "directory": str(hydra.runtime.output_dir)}
        record = SweepRecord.read(self._directory)
        if record.jobs.get(str(hydra.job.num)) != job:
            record.add({str(hydra.job.num): job})

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the tables."""
        from rich.console import Console

        from layerprobe.report.tables.jobs_table import jobs_table
        from layerprobe.report.tables.sweep_table import YES_OR_NO, sweep_table
        from layerprobe.results.sweep_results import sweep_jobs

        record = SweepRecord.read(Path(config.hydra.sweep.dir).absolute())
        jobs = sweep_jobs(record)
        self._claim.close()
        if jobs.empty:
            raise SystemExit(
                "This sweep has no job: one of its choices is empty. `range` excludes its end, and `glob` chooses "
                "among the configurations of a group, not files. To probe many files, give a pattern in quotes, "
                "such as 'checkpoint=\"RUN/checkpoints/*.ckpt\"', and deal it out: shard=1/4,2/4,3/4,4/4"
            )
        jobs.to_csv(record.directory / "sweep.csv", index=False)
        open_jobs = jobs["status"].ne("done")
        console = Console()
        if self._over in jobs and jobs[self._over].nunique() > 1:
            console.print(sweep_table(jobs, over=self._over, yes_or_no=tuple(self._yes_or_no or YES_OR_NO)))
        shown = jobs if len(jobs) <= _MOST_JOBS else jobs[open_jobs]
        if len(shown):
            console.print(jobs_table(shown))
        say(f"Every job: {record.directory / 'sweep.csv'}")
        if open_jobs.any():
            again = command("sweep", f"continue={record.directory}")
            say(f"{open_jobs.sum()} of {len(jobs)} jobs are not done. To go on: {again}")
            console.file.flush()
            raise SystemExit(1)


class SweepCurves(Callback):
    """Draws every layer of every job of a sweep into one picture, `depth_curves.png` and `.svg`.

    Args:
        row: Key whose values are the rows of panels, such as `model`.
        column: Key whose values are the columns, such as `model/activation`.
        line: Key whose values are the lines of a panel, such as `model.depth`.
        title: What the picture is to show.
    """

    def __init__(self, row: str, column: str, line: str, title: str = "") -> None:
        self._keys = (current_override(row), current_override(column), current_override(line))
        self._title = title

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Draw the last checkpoint of every job that is done."""
        from layerprobe.report.charts.sweep_curves import sweep_curves
        from layerprobe.report.picture_files import save
        from layerprobe.results.sweep_results import sweep_results

        directory = Path(config.hydra.sweep.dir).absolute()
        results = sweep_results(SweepRecord.read(directory))
        missing = [key for key in self._keys if key not in results]
        if missing:
            say(f"No picture of the sweep: no job that is done sets {', '.join(missing)}.")
            return
        files = save(sweep_curves(results, *self._keys, title=self._title), directory / "depth_curves")
        say(f"Every layer: {files[0]}")
