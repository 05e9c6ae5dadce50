"""Sends the jobs of a sweep to a SLURM cluster, watches them, and finds them again after a launcher that died."""

from __future__ import annotations

import logging
import os
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.layerprobe_launchers.jobs import Job, jobs_of, report_end, returned, to_do
from layerprobe.program import to_install
from layerprobe.quoting import command, override

log = logging.getLogger(__name__)

_COMMON = (
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "mem_gb",
    "nodes",
    "name",
    "stderr_to_stdout",
)
_POLL, _SLOWEST_POLL = 1.0, 20.0
_EARLY = 60
"""Seconds by which SLURM may send a warning before its time (`man sbatch`, `--signal`)."""


class SlurmLauncher(Launcher):
    """Sends jobs as one array, through submitit, and waits for them.

    A job that gets a warning saves, is requeued by submitit's handler and goes on in its directory, at most
    `max_num_timeout` times after a time limit. A job that fails is FAILED for SLURM too.

    Args:
        submitit_folder: Where the jobs' scripts and logs go; on a file system that all nodes see.
        max_num_timeout: How often a job may go on after its time limit.
        parameters: What submitit's SLURM executor takes: partition, account, timeout_min, mem_gb, gpus_per_node, …
    """

    def __init__(self, submitit_folder: str, max_num_timeout: int = 20, **parameters: Any) -> None:
        self._folder = submitit_folder
        self._max_num_timeout = max_num_timeout
        self._parameters = {
            name if name in _COMMON else f"slurm_{name}": OmegaConf.to_container(v) if OmegaConf.is_config(v) else v
            for name, v in parameters.items()
            if v is not None
        }
        self._given: tuple[HydraContext, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives."""
        self._given = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Send what is to be done and not on its way already, and wait until all have ended."""
        from layerprobe.results.sweep_record import SweepRecord

        _check_warning(self._parameters)
        _check_machine()
        assert self._given is not None, "Hydra calls setup before launch"
        context, config = self._given
        jobs = jobs_of(context, config, job_overrides, initial_job_idx)
        record = SweepRecord.read(Path(config.hydra.sweep.dir).absolute())
        sent = {number: job["slurm_job"] for number, job in record.jobs.items() if job.get("slurm_job")}
        alive = slurm_states(list(sent.values()))
        going = [job for job in jobs if sent.get(str(job.number)) in alive]
        todo = to_do([job for job in jobs if job not in going], config.get("rerun"))
        record.add({str(job.number): job.record for job in jobs})
        log.info(
            "%d jobs: %d done before, %d on their way, %d to send",
            len(jobs), len(jobs) - len(going) - len(todo), len(going), len(todo),
        )  # fmt: skip
        watched = {str(job.number): sent[str(job.number)] for job in going}
        if todo:
            new = self._send(todo)
            record.add({number: {"slurm_job": slurm_job} for number, slurm_job in new.items()})
            watched |= new
        try:
            self._wait({job.number: job for job in jobs}, watched)
        except KeyboardInterrupt:
            where = record.directory
            print(
                "\nThe jobs go on without this process."
                f"\nTo look at them:  {command('sweep', override('status', where))}"
                f"\nTo wait for them: {command('sweep', override('continue', where))}"
                f"\nTo cancel them:   scancel {' '.join(sorted({job.split('_')[0] for job in watched.values()}))}",
                flush=True,
            )
            raise SystemExit(130) from None
        return [returned(job, config) for job in jobs]

    def _send(self, jobs: Sequence[Job]) -> dict[str, str]:
        import submitit

        executor = submitit.AutoExecutor(
            folder=self._folder, cluster="slurm", slurm_max_num_timeout=self._max_num_timeout
        )
        try:
            executor.update_parameters(**self._parameters)
            sent = executor.map_array(Command(), [list(job.command) for job in jobs])
        except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
            raise SystemExit(_refusal(str(error))) from error
        for job, slurm_job in zip(jobs, sent, strict=True):
            log.info("sent     %s  (SLURM job %s, log %s)", job.name, slurm_job.job_id, slurm_job.paths.stdout)
        return {str(job.number): slurm_job.job_id for job, slurm_job in zip(jobs, sent, strict=True)}

    def _wait(self, jobs: Mapping[int, Job], watched: Mapping[str, str]) -> None:
        left, shown, pause = dict(watched), dict.fromkeys(watched, "PENDING"), _POLL
        while left:
            states = slurm_states(list(left.values()))
            for number, slurm_job in list(left.items()):
                state = states.get(slurm_job, "")
                if not state:
                    del left[number]
                    report_end(jobs[int(number)], partial(ended_as, slurm_job))
                elif state != shown[number]:
                    log.info("%-8s %s", state.lower(), jobs[int(number)].name)
                    pause = _POLL
                shown[number] = state
            if left:
                time.sleep(pause)
                pause = min(pause * 1.2, _SLOWEST_POLL)


class Command:
    """Runs a script in this process, which is where SLURM's signals arrive; requeued, it runs it again."""

    def __call__(self, command: Sequence[str]) -> None:
        """Run it."""
        sys.argv = list(command)
        runpy.run_path(command[0], run_name="__main__")

    def checkpoint(self, command: Sequence[str]) -> Any:
        """Return what submitit runs after a requeue: the same."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, command)


def slurm_states(slurm_jobs: Sequence[str]) -> dict[str, str]:
    """Ask SLURM which jobs wait or run, by ids such as `12_3`.

    Returns:
        The state of each job that has not ended. A cluster that does not answer is asked again until it does.
    """
    if not slurm_jobs:
        return {}
    arrays = ",".join(sorted({job.split("_")[0] for job in slurm_jobs}))
    asked = ["squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={arrays}"]
    while True:
        with suppress(subprocess.TimeoutExpired):
            answer = subprocess.run(asked, capture_output=True, text=True, timeout=120)
            if answer.returncode == 0:
                found = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if line.strip())
                return {job: found[job] for job in slurm_jobs if job in found}
            if "Invalid job id" in answer.stderr:
                return {}
        time.sleep(_SLOWEST_POLL)


def last_state(slurm_job: str) -> str:
    """Ask SLURM how a job ended.

    Returns:
        Such as `FAILED`; `unknown` where neither the accounting nor the controller remembers.
    """
    for asked, read in (
        (["sacct", "-X", "-n", "-P", "-o", "State", "-j", slurm_job], lambda out: out.split("\n")[0].strip()),
        (["scontrol", "--oneliner", "show", "job", slurm_job], _shown_state),
    ):
        with suppress(OSError, subprocess.TimeoutExpired):
            answer = subprocess.run(asked, capture_output=True, text=True, timeout=60)
            state = read(answer.stdout) if answer.returncode == 0 else ""
            if state and state.replace(" ", "").isalpha() and state != "State":
                return state
    return "unknown"


def _shown_state(text: str) -> str:
    return next((word.split("=", 1)[1].replace("_", " ") for word in text.split() if word.startswith("JobState=")), "")


def ended_as(slurm_job: str) -> str:
    """Say how SLURM saw a job end."""
    return f"SLURM job {slurm_job}: {last_state(slurm_job)}"


def _check_warning(parameters: Mapping[str, Any]) -> None:
    """Refuse a warning at a job's very start: the job would be requeued for ever and never come further."""
    limit, delay = parameters.get("timeout_min"), parameters.get("slurm_signal_delay_s")
    if limit is not None and delay is not None and delay + _EARLY >= 60 * limit:
        raise SystemExit(
            f"hydra.launcher.signal_delay_s={delay} warns a job {delay} s before its time limit, and SLURM up to "
            f"{_EARLY} s earlier; with hydra.launcher.timeout_min={limit} it would be warned as it starts, and never "
            f"come further. Give timeout_min={(delay + _EARLY) // 60 + 1} or more, or a shorter signal_delay_s."
        )


def _check_machine() -> None:
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise SystemExit(f"Sending jobs to SLURM needs submitit. To install it: {to_install('slurm')}") from error
    if missing := [name for name in ("sbatch", "squeue", "scontrol") if shutil.which(name) is None]:
        raise SystemExit(
            f"{missing[0]} is not on this machine ({os.uname().nodename}), so that no job can be sent to SLURM. "
            "Run this on a login node of the cluster; to use this machine's own GPUs: hydra/launcher=gpu_box."
        )


def _refusal(error: str) -> str:
    said = [line.split("error:", 1)[1].strip() for line in error.splitlines() if "error:" in line] or [error.strip()]
    message = f"SLURM refused the jobs: {'; '.join(dict.fromkeys(said))}."
    with suppress(OSError, subprocess.TimeoutExpired):
        offered = subprocess.run(
            ["sinfo", "--noheader", "--format=%P|%l|%G|%c|%m"], capture_output=True, text=True, timeout=60
        ).stdout
        rows = dict.fromkeys(line.strip() for line in offered.splitlines())
        shown = "\n".join("  partition {}, time {}, {}, {} CPUs, {} MB a node".format(*row.split("|")) for row in rows)
        message += f"\nThere is (* marks the default):\n{shown}"
    return (
        message + "\nChange what is asked for: hydra.launcher.partition=…, .gpus_per_node=…, .cpus_per_task=…, "
        ".timeout_min=…, .mem_gb=…"
    )
