"""The life of one job of a script: claimed, perhaps done before, and ended in a way that can be gone on from."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from layerprobe.results.run_directory import RunDirectory, RunDirectoryError
from layerprobe.results.summary import RunSummary
from layerprobe.results.wandb_sink import finish_run
from layerprobe.training.stop import Stopped, leaving_on_sigterm

log = logging.getLogger("layerprobe")

Work = Callable[[DictConfig, RunDirectory], RunSummary]
"""What a job does: given its configuration and its directory, it returns how it ended."""


def run_job(cfg: DictConfig, work: Work) -> float:
    """Do a job unless it is done, and write down how it ended.

    Args:
        cfg: Its configuration, with `run_dir`, `run_id` and `rerun`.
        work: What there is to do.

    Returns:
        The job's objective, for a sweeper.

    Raises:
        SystemExit: Where another process or another configuration has the directory.
        Stopped: Where a signal asked the job to stop; what it had is saved.
    """
    run = RunDirectory(cfg.run_dir)
    config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    if getattr(rank_zero_only, "rank", 0) != 0:
        _be_quiet()
        return math.nan if run.finished(config) else work(cfg, run).objective
    with _explained(), run.claimed():
        if cfg.rerun != "all" and (summary := run.finished(config)):
            log.info("Done before, left alone: %s (rerun=all starts anew)", run.path)
            return summary.objective
        run.begin(config, cfg.rerun)
        cfg.run_id = cfg.run_id or run.id
        with leaving_on_sigterm():
            return _watched(cfg, run, work)


@contextmanager
def _explained() -> Iterator[None]:
    """A directory that cannot be used is the user's to decide about: a message, and no trace of the program."""
    try:
        yield
    except RunDirectoryError as error:
        raise SystemExit(str(error)) from error


def _watched(cfg: DictConfig, run: RunDirectory, work: Work) -> float:
    overrides = [override for override in HydraConfig.get().overrides.task if not override.startswith("rerun=")]
    try:
        summary = work(cfg, run)
    except Stopped as stop:
        finish_run(exit_code=int(stop.code or 1), preempted=True)
        RunSummary("interrupted", overrides, error=str(stop)).write(run.path)
        log.warning("The run was %s\nTo go on: %s", stop, continue_command())
        try:
            stop.requeue()
        except Exception as error:
            RunSummary("interrupted", overrides, error=f"{stop}; {error}").write(run.path)
            raise
        raise
    except (KeyboardInterrupt, SystemExit):
        finish_run(exit_code=1)
        RunSummary("interrupted", overrides, error="interrupted").write(run.path)
        log.warning("Interrupted. To go on: %s", continue_command())
        raise
    except BaseException as error:
        with suppress(Exception):
            finish_run(exit_code=1)
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        with suppress(OSError):  # a full disk must not hide the error
            RunSummary("failed", overrides, error=reason).write(run.path)
        if in_sweep() and isinstance(error, Exception):
            log.exception("This job failed; the sweep goes on.")
            return math.nan
        raise
    finish_run()
    summary.write(run.path)
    run.checkpoint.unlink(missing_ok=True)
    return summary.objective


def in_sweep() -> bool:
    """Whether this job is one of a sweep in this process, whose sweeper only collects what the jobs return."""
    config = HydraConfig.get()
    return config.mode == RunMode.MULTIRUN and "basic_sweeper" in str(config.sweeper._target_)


def continue_command() -> str:
    """The command that goes on with this job, or with the sweep that it is a part of."""
    config = HydraConfig.get()
    if config.mode == RunMode.MULTIRUN:
        return f"uv run scripts/sweep.py {_quoted('continue', Path(config.sweep.dir).absolute())}"
    words = [*config.overrides.task, f"hydra.run.dir={Path(config.runtime.output_dir)}"]
    return shlex.join(["uv", "run", f"scripts/{config.job.name}.py", *words])


def _quoted(key: str, value: Any) -> str:
    return shlex.quote(f"{key}={value}")


def _be_quiet() -> None:
    """One log for all processes of a job: the first one's."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
        file = Path(getattr(handler, "baseFilename", ""))
        if "_ddp_process_" in file.name and file.stat().st_size == 0:  # Lightning's name for the log of such a process
            file.unlink()
    root.addHandler(logging.NullHandler())
