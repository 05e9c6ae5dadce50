"""Life of one job of a script: its directory is claimed, done work is left alone, and its end is written down."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError

from layerprobe.compat.hydra import sweeper_learns
from layerprobe.files.atomic import write_bytes
from layerprobe.files.errors import UnusableFileError
from layerprobe.formatting import is_message
from layerprobe.jobs.config_check import checked
from layerprobe.jobs.failure_reason import cause_of, reason
from layerprobe.jobs.lightning_hydra_template import extras
from layerprobe.quoting import command, override
from layerprobe.results.run_directory import RunDirectory, RunDirectoryError
from layerprobe.results.run_summary import RunSummary
from layerprobe.training.signals import Stopped, leaving_on_sigterm

log = logging.getLogger("layerprobe")

Work = Callable[[DictConfig, RunDirectory], RunSummary]
"""What a job does: given its configuration and its directory, it returns how it ended."""


_MOST_IN_VAIN = 3
"""How often in a row a job is requeued without having come further."""

Expected = tuple[type[BaseException], ...]
"""Errors whose message is all that a user needs."""

_TOLD: Expected = (OSError, UnusableFileError)
"""Files that cannot be written or read."""


def run_job(cfg: DictConfig, load: Callable[[], tuple[Work, Expected]], *, goes_on: bool = False) -> float:
    """Do a job unless it is done, write down how it ended, and return its objective for a sweeper.

    Args:
        cfg: Its configuration, with `run_dir`, `run_id` and `rerun`.
        load: Imports what there is to do, and the errors that `attended` expects of it, after the configuration is
            checked.
        goes_on: Whether the directory may hold results of other configurations: the work itself knows what is done,
            and its configuration may lack what the checkpoints say.

    Raises:
        SystemExit: Where another process or another configuration has the directory.
        Stopped: Where a signal asked the job to stop; what it had is saved.
    """
    run = RunDirectory(cfg.run_dir)
    try:
        config = checked(cfg, whole=not goes_on)
    except CompactHydraException as error:
        return _refused(cfg, run, error)
    work, expected = load()
    if goes_on:
        with extras(cfg), explained(), run.claimed():
            return attended(cfg, run, work, (*_TOLD, *expected))
    if getattr(rank_zero_only, "rank", 0) != 0:
        _be_quiet()
        if cfg.rerun != "all" and run.finished(config):
            return math.nan
        try:
            return work(cfg, run).objective
        except Stopped:  # what has started the processes ends the first, which writes, where another one fails
            raise SystemExit(0) from None
    with extras(cfg), explained(), run.claimed():
        if cfg.rerun != "all" and (run.path / "probes").is_dir():
            from layerprobe.results.store import restore_results  # pandas and pyarrow: only for what is there

            restore_results(run.path / "probes")
        if cfg.rerun != "all" and (summary := run.finished(config)):
            log.info("Done before, left as it is: %s (rerun=all starts over)", run.path)
            return summary.objective
        run.begin(config, cfg.rerun)
        cfg.run_id = cfg.run_id or run.id
        objective = attended(cfg, run, work, (*_TOLD, *expected))
        if run.finished(config):
            run.checkpoint.unlink(missing_ok=True)
        return objective


def _refused(cfg: DictConfig, run: RunDirectory, error: CompactHydraException) -> float:
    """End a job whose configuration cannot be: as a failed one, where nothing else is known of its directory.

    Returns:
        NaN where the job is one of a sweep in this process, which goes on.

    Raises:
        CompactHydraException: The error, elsewhere.
    """
    try:
        list(HydraConfig.get().overrides.task)
    except InterpolationResolutionError:  # the command line itself holds what cannot be resolved
        raise error from None
    if run.summary is not None:
        raise error

    def work(cfg: DictConfig, run: RunDirectory) -> RunSummary:
        raise error

    with explained(), run.claimed():
        return attended(cfg, run, work, (CompactHydraException,))


def times_stopped_at(run: RunDirectory, stop: Stopped) -> int:
    """Count how often in a row a run was stopped where it is, and keep the count in its directory.

    Returns:
        1 where it has come further since it was stopped before: another step, another layer probed.
    """
    file = run.path / "stops.json"
    results = sorted(str(path.relative_to(run.path)) for path in (run.path / "probes").rglob("[!.]*.parquet"))
    here = {"where": stop.where, "results": results}
    try:
        before = dict(json.loads(file.read_text()))
    except (OSError, ValueError):
        before = {}
    times = int(before.pop("times", 0)) + 1 if {**before, "times": 0} == {**here, "times": 0} else 1
    write_bytes(file, json.dumps(here | {"times": times}).encode())
    return times


@contextmanager
def explained() -> Iterator[None]:
    """Turn an error about a directory that cannot be used into a message without a traceback."""
    try:
        yield
    except (RunDirectoryError, UnusableFileError) as error:
        raise SystemExit(str(error)) from error
    except OSError as error:
        raise SystemExit(f"The run's directory cannot be used: {error}. Give another: hydra.run.dir=DIR") from error


@contextmanager
def silent_logs() -> Iterator[None]:
    """Let `logging` say nothing of a log that cannot be written, as on a full disk: it would hide what happened."""
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = before


@leaving_on_sigterm()
@silent_logs()
def attended(cfg: DictConfig, run: RunDirectory, work: Work, expected: Expected = (OSError,)) -> float:
    """Do a job, write down how it ended, whatever happens, and return its objective.

    Args:
        cfg: Its configuration.
        run: Its directory, claimed.
        work: What there is to do.
        expected: Errors that end with their message alone; the traceback is in the job's log. An error that this
            package raises itself does so too.

    Raises:
        CompactHydraException: Where one of the expected errors has ended it.
        Stopped: Where a signal asked the job to stop; what it had is saved.
    """
    overrides = [override for override in HydraConfig.get().overrides.task if not override.startswith("rerun=")]
    try:
        summary = work(cfg, run)
    except Stopped as stop:
        _finish_run(exit_code=int(stop.code or 1), preempted=True)
        RunSummary("interrupted", overrides, error=str(stop)).write(run.path)
        log.warning("The run was %s\nTo go on: %s", stop, continue_command())
        if os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and (times := times_stopped_at(run, stop)) > _MOST_IN_VAIN:
            error = (
                f"{stop}; not requeued, since this job was stopped {times} times in a row without having come further. "
                "Give it more time (hydra.launcher.timeout_min) or warn it later (hydra.launcher.signal_delay_s)"
            )
            RunSummary("interrupted", overrides, error=error).write(run.path)
            log.error("%s.", error)
            raise
        try:
            stop.requeue()
        except Exception as error:  # of any kind, of submitit or of SLURM: it goes into the record, and on
            RunSummary("interrupted", overrides, error=f"{stop}; {error}").write(run.path)
            raise
        raise
    except (KeyboardInterrupt, SystemExit):
        _finish_run(exit_code=1)
        RunSummary("interrupted", overrides, error="interrupted").write(run.path)
        log.warning("Interrupted. To go on: %s", continue_command())
        raise
    except BaseException as error:  # whatever ends a job is written down in its directory
        _finish_run(exit_code=1)
        cause = cause_of(error)
        told = isinstance(error, expected) or isinstance(cause, expected) or is_message(cause)
        with suppress(OSError):  # a full disk must not hide the error
            kind = "" if isinstance(cause, CompactHydraException) else f"{type(cause).__name__}: "
            first = f"{kind}{cause}".splitlines()[0]
            RunSummary("failed", overrides, error=first).write(run.path)
        if told:
            _log_traceback(error)
        if in_sweep() and isinstance(error, Exception):
            log.error("This job failed; the sweep goes on.%s", f" {reason(error)}" if told else "", exc_info=not told)
            return math.nan
        if told:
            raise CompactHydraException(_advised(error, run) + _where_the_trace_is()) from None
        raise
    _finish_run()
    summary.write(run.path)
    return summary.objective


def _finish_run(exit_code: int = 0, *, preempted: bool = False) -> None:
    if "wandb" in sys.modules:  # there may be a run
        from layerprobe.results.wandb_sink import finish_run

        finish_run(exit_code, preempted=preempted)


def _advised(error: BaseException, run: RunDirectory) -> str:
    cause = cause_of(error)
    full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if not full:
        return reason(error)
    return (
        f"Writing to {run.path.absolute()} failed: {reason(error)}.\n"
        f"What was saved before is intact. Make room, then go on: {continue_command()}"
    )


def _where_the_trace_is() -> str:
    files = [
        handler.baseFilename for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)
    ]
    return f"\nThe traceback is in {files[0]}" if files else ""


def _log_traceback(error: BaseException) -> None:
    """Write the traceback into the log files, not onto the terminal."""
    trace = (type(error), error, error.__traceback__)
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "Traceback", (), trace)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def in_sweep() -> bool:
    """Tell whether this job is one of a sweep in this process, whose sweeper only collects what the jobs return."""
    config = HydraConfig.get()
    return config.mode == RunMode.MULTIRUN and not sweeper_learns(config)


def continue_command() -> str:
    """Return the command that goes on with this job, or with the sweep that it is a part of."""
    config = HydraConfig.get()
    if config.mode == RunMode.MULTIRUN:
        return command("sweep", f"continue={Path(config.sweep.dir).absolute()}")
    own = [word for word in config.overrides.hydra if not word.startswith(("hydra.run.dir=", "hydra.mode="))]
    return command(config.job.name, *config.overrides.task, *own, override("hydra.run.dir", config.runtime.output_dir))


def _be_quiet() -> None:
    """Leave one log for all processes of a job: the first one's."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
        file = Path(getattr(handler, "baseFilename", ""))
        if "_ddp_process_" in file.name and file.stat().st_size == 0:  # Lightning's name for the log of such a process
            file.unlink()
    root.addHandler(logging.NullHandler())
