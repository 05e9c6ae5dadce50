"""The jobs of a sweep as commands, each in a directory of its own, and what became of them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from layerprobe.compat.hydra import sweeper_learns
from layerprobe.quoting import override

log = logging.getLogger(__name__)

# What the launching process alone is asked for.
_LAUNCHING = (
    "hydra/launcher",
    "hydra.launcher",
    "hydra/sweeper",
    "hydra.sweeper",
    "hydra.sweep.",
    "hydra.mode",
    "hydra.run.",
)


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    The command is what one would type to run it alone.
    """

    number: int
    overrides: Sequence[str]
    directory: Path
    command: Sequence[str]
    config: dict[str, Any]

    @property
    def record(self) -> dict[str, Any]:
        """What the sweep writes down about it."""
        return {"overrides": list(self.overrides), "directory": str(self.directory)}

    @property
    def name(self) -> str:
        """Number and overrides, for a message."""
        return f"#{self.number}  {' '.join(self.overrides)}"


def jobs_of(context: HydraContext, config: DictConfig, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
    """Compose the jobs of a sweep."""
    setup_globals()
    hydra = config.hydra
    flags = ["--config-name", str(hydra.job.config_name)]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", str(source.path)]
    own = [o for o in hydra.overrides.hydra if not o.lstrip("+~").startswith(_LAUNCHING)]
    jobs, before = [], HydraConfig.instance().cfg
    try:
        for number, overrides in enumerate(job_overrides, first):
            composed = context.config_loader.load_sweep_config(config, list(overrides))
            with open_dict(composed):
                composed.hydra.job.num, composed.hydra.job.id = number, str(number)
            directory = (Path(str(composed.hydra.sweep.dir)) / str(composed.hydra.sweep.subdir)).absolute()
            with open_dict(composed):
                composed.hydra.runtime.output_dir = str(directory)
            HydraConfig.instance().set_config(composed)
            task = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
            kept = [o for o in overrides if not o.startswith("rerun=")]
            words = [*kept, *own, "hydra.mode=RUN", override("hydra.run.dir", directory)]
            script = os.path.abspath(sys.argv[0])
            resolved: Any = OmegaConf.to_container(task, resolve=True)
            jobs.append(Job(number, kept, directory, [script, *flags, *words], resolved))
    finally:
        HydraConfig.instance().cfg = before
    return jobs


def to_do(jobs: Sequence[Job], rerun: str | None) -> list[Job]:
    """Leave out the jobs that are done, and set aside what is to be done again: `rerun` is `failed`, `all` or None.

    Raises:
        SystemExit: Where a directory belongs to another configuration.
    """
    from layerprobe.results.run_directory import RunDirectory, RunDirectoryError

    todo = []
    for job in jobs:
        run = RunDirectory(job.directory)
        if rerun != "all" and run.finished(job.config):
            continue
        if not run.is_busy():
            try:
                run.begin(job.config, rerun)  # type: ignore[arg-type]
            except RunDirectoryError as error:
                raise SystemExit(str(error)) from error
        todo.append(job)
    return todo


def report_end(job: Job, cause: Callable[[], str], took: str = "") -> None:
    """Say how a job ended; write it down where it had no time to do so itself.

    `cause` finds out what ended it, where it has not written that down; `took` says how long it took.
    """
    from layerprobe.results.run_summary import RunSummary

    summary = RunSummary.read(job.directory)
    if summary is None:
        summary = RunSummary("killed", job.overrides, error=cause())
        with suppress(OSError):
            summary.write(job.directory)
    if summary.status == "done":
        log.info("done     %s%s", job.name, took)
    else:
        log.warning("%-8s %s%s: %s", summary.status, job.name, took, summary.error)


def returned(job: Job, config: DictConfig) -> JobReturn:
    """Tell Hydra what became of a job.

    Returns:
        The job's objective. For a sweeper that learns from it, a job that is not done has failed; the basic sweeper
        would end the sweep at the first such job, and it gets NaN.
    """
    from layerprobe.results.run_summary import RunSummary

    summary = RunSummary.read(job.directory)
    found = JobReturn(overrides=job.overrides, working_dir=str(job.directory), status=JobStatus.COMPLETED)
    found.return_value = float("nan") if summary is None else summary.objective
    if (summary is None or summary.status != "done") and sweeper_learns(config.hydra):
        found.status = JobStatus.FAILED
        found.return_value = RuntimeError(f"{job.name}: {summary.error if summary else 'lost'}")
    return found
