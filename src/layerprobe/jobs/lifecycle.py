"""Life of one job of a script: its directory is claimed, done work is left alone, and its end is written down."""

from __future__ import annotations

import errno
import importlib
import json
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from layerprobe.compat.hydra import sweeper_learns
from layerprobe.files.atomic import write_bytes
from layerprobe.files.errors import UnusableFileError
from layerprobe.formatting import first_line, is_message, nearest
from layerprobe.jobs.config_check import arguments_of, unread_keys, untaken, wrong_values
from layerprobe.jobs.hub_revisions import revisions_of, with_revision
from layerprobe.jobs.lightning_hydra_template import extras
from layerprobe.quoting import command, override
from layerprobe.results.config_migration import migrated, with_what_moved
from layerprobe.results.run_directory import RunDirectory, RunDirectoryError
from layerprobe.results.run_summary import RERUNS, RunSummary
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


def plain(cfg: DictConfig, *, whole: bool = True) -> Any:
    """Resolve a configuration; where it need not be `whole`, values may be missing.

    Raises:
        CompactHydraException: Naming the key that is missing, or what cannot be resolved.
    """
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=whole)
    except MissingMandatoryValue as error:
        key = error.full_key or "A key"
        raise CompactHydraException(f"{key} has no value. Give one: {key}=VALUE") from None
    except InterpolationResolutionError as error:
        raise CompactHydraException(with_what_moved(first_line(error))) from None


def checked(cfg: DictConfig, *, whole: bool = True) -> Any:
    """Resolve a configuration, and refuse keys that nothing reads and values that the classes in it cannot take.

    Former names of classes in it are replaced by the public ones. Where it need not be `whole`, values may be missing.

    Returns:
        The same, of plain values.

    Raises:
        CompactHydraException: Naming the key and the next step.
    """
    written: Any = OmegaConf.to_container(cfg, resolve=False)
    if (current := migrated(written)) != written:
        cfg.merge_with(current)
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    for key, reason in unread_keys(cfg, hydra).items():
        raise CompactHydraException(f"{key} {reason}")
    config = plain(cfg, whole=whole)
    if config["rerun"] not in (None, *RERUNS):
        raise CompactHydraException(f"rerun is {config['rerun']!r}. {nearest(str(config['rerun']), RERUNS)}")
    seed = config.get("seed")
    if isinstance(seed, int) and not 0 <= seed < 2**32:  # which NumPy takes
        raise CompactHydraException(f"seed is {seed}, expected a whole number from 0 to {2**32 - 1}.")
    for name in ("model", "data", "trainer"):
        empty = name in config and "_target_" not in (config[name] or {})  # a script of one's own may have none of it
        if empty and not config.get("checkpoint"):
            other = ", or the network that was trained: checkpoint=FILE" if "checkpoint" in config else ""
            raise CompactHydraException(
                f"Nothing says what {name} to build. Choose one of conf/{name}: {name}=NAME{other}"
            )
    for name in ("inputs", "targets", "task"):
        if config.get("probe", {}).get(name) == {}:  # as the protocol's file leaves it
            raise CompactHydraException(f"probe.{name} is empty. Choose one of conf/{name}: {name}=NAME")
    try:
        revisions = revisions_of(cfg)
    except ValueError as error:
        raise CompactHydraException(str(error)) from None
    of_one = config if not revisions else plain(with_revision(cfg, revisions[0]), whole=whole)
    words = hydra.overrides.task if hydra else ()
    said = [word.lstrip("+").partition("=")[0] for word in words]
    added = [key for key, word in zip(said, words, strict=True) if word.startswith("+") and not word.startswith("++")]
    for key, reason in untaken(of_one, added).items():
        raise CompactHydraException(f"{key} {reason}")
    if wrong := wrong_values(of_one):
        key = min(wrong, key=lambda path: (path not in said, path.count(".")))
        raise CompactHydraException(f"{key} {wrong[key]}")
    return config


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
        cause = _cause(error)
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


def reason(error: BaseException) -> str:
    """Say what went wrong, without what Hydra says around it.

    Returns:
        Its message; with its kind where the message alone would say too little.
    """
    cause = _cause(error)
    if isinstance(cause, ValueError | OSError | RuntimeError | CompactHydraException) or is_message(cause):
        return str(cause)
    if not isinstance(error, InstantiationException):
        return f"{type(cause).__name__}: {cause}"
    key = re.search(r"full_key: (\S+)", str(error))
    where = f"{key[1]}." if key else ""
    if absent := re.match(r"Error locating target '(.*?)'", str(error)):
        return f"{where}_target_={absent[1]} cannot be found. {_why_absent(absent[1])}"
    if not key:
        return f"{type(cause).__name__}: {cause}"
    said = f"{key[1]}: {type(cause).__name__}: {str(cause).rstrip('.')}."
    called = re.match(r"Error in call to target '(.*?)'", str(error))
    unknown = re.search(r"unexpected keyword argument '(\w+)'$", str(cause))
    if called and unknown and (known := arguments_of(called[1])):
        return f"{said} {nearest(unknown[1], known)}"
    return f"{said} To set an argument: {where}NAME=VALUE, or +{where}NAME=VALUE"


def _why_absent(target: str) -> str:
    """Say where the search for a dotted name of Python's ends, and what there is instead."""
    parts = target.split(".")
    for n in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:n])
        try:
            found: Any = importlib.import_module(name)
        except Exception as error:  # a module of the user's own, which may raise anything
            if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
                continue
            return f"Importing {name} ends in {type(error).__name__}: {error}"
        public = [word for word in vars(found) if not word.startswith("_")]
        return f"{name} has no {parts[n]!r}. {nearest(parts[n], public)}"
    return "Is its package installed, or on PYTHONPATH?"


def _cause(error: BaseException) -> BaseException:
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _advised(error: BaseException, run: RunDirectory) -> str:
    cause = _cause(error)
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
