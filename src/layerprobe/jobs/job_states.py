"""Status of each job of a sweep, found from outside."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from hydra_plugins.layerprobe_launchers.slurm import ended_as, slurm_states
from layerprobe.results.progress import read_progress
from layerprobe.results.run_directory import RunDirectory
from layerprobe.results.run_summary import RunSummary
from layerprobe.results.sweep_record import SweepRecord


class JobState(NamedTuple):
    """A job as it is now.

    Attributes:
        name: What tells it apart.
        state: `waiting`, `running`, `done`, `failed`, `interrupted`, `killed`, `lost` or `unreadable`.
        where: How far it is: epoch, step, checkpoint and layer; or what went wrong.
    """

    name: str
    state: str
    where: str


def job_states(record: SweepRecord) -> list[JobState]:
    """Find out what each job of a sweep is doing."""
    sent = {job["directory"]: job["slurm_job"] for job in record.jobs.values() if job.get("slurm_job")}
    queue = slurm_states(list(sent.values())) if sent and shutil.which("squeue") else {}
    with record.claimed() as free:
        return [_state(folder, record, sent.get(str(folder), ""), queue, not free) for folder in record.folders()]


def _state(folder: Path, record: SweepRecord, slurm_job: str, queue: dict[str, str], launching: bool) -> JobState:
    summary, progress = RunSummary.read(folder), read_progress(folder)
    known: dict[str, list[str]] = {job["directory"]: job.get("overrides", []) for job in record.jobs.values()}
    overrides = list(summary.overrides if summary else ()) or known.get(str(folder), [])
    name = f"{folder.name}: {' '.join(overrides)}"
    order = ("epoch", "step", "checkpoint", "layer")
    where = ", ".join(
        str(progress[key]) if key == "layer" else f"{key} {progress[key]}" for key in order if key in progress
    )
    slurm = queue.get(slurm_job, "")
    if slurm == "RUNNING" or (not slurm and RunDirectory(folder).is_busy()):
        return JobState(name, "running", where or "starting")
    if slurm:
        return JobState(name, "waiting", f"SLURM job {slurm_job}: {slurm.lower()}" + (f"; {where}" if where else ""))
    if summary is not None:
        return JobState(name, summary.status, summary.error or summary.best_layer)
    if launching and not slurm_job:
        return JobState(name, "waiting", where)
    gone = "its process is gone" if any(folder.glob("run.lock*")) else "it has not begun"
    ended = ended_as(slurm_job) if slurm_job else gone
    return JobState(name, "lost", f"{ended}; {where}" if where else ended)
