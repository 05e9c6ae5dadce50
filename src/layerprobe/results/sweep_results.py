"""The results of a sweep: its jobs and their last checkpoints, as data frames."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from layerprobe.results.best import at_last_checkpoint
from layerprobe.results.config_migration import current_override
from layerprobe.results.reader import Run
from layerprobe.results.run_summary import RunSummary
from layerprobe.results.sweep_record import SweepRecord


def sweep_results(record: SweepRecord) -> pd.DataFrame:
    """Collect the results of a sweep's jobs.

    Returns:
        The rows of the last checkpoint of every job that is done, in the columns of `ProbeRecord`, with `directory` and
        a column for each overridden key.
    """
    jobs = sweep_jobs(record)
    frames = []
    for job in jobs[jobs["status"] == "done"].to_dict("records") if len(jobs) else []:
        results = Run.read(Path(job["directory"])).results
        last = at_last_checkpoint(results)
        frames.append(last.assign(**{str(key): str(value) for key, value in job.items() if key not in results}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def sweep_jobs(record: SweepRecord) -> pd.DataFrame:
    """Collect what became of a sweep's jobs.

    Returns:
        One row for each job: directory, status, error, best_layer, a column for each overridden key and one for each
        metric. A job without a summary has the status `lost`.
    """
    known = {Path(job["directory"]): job.get("overrides", []) for job in record.jobs.values()}
    rows = []
    for folder in record.folders():
        summary = RunSummary.read(folder) or RunSummary("lost", known.get(folder, []), error="it has left no run.json")
        words = summary.overrides or known.get(folder, [])
        overrides = dict(current_override(word.lstrip("+")).split("=", 1) for word in words if "=" in word)
        rows.append(
            {"directory": str(folder), "status": summary.status, **overrides, **summary.metrics}
            | {"best_layer": summary.best_layer, "error": summary.error}
        )
    return pd.DataFrame(rows)
