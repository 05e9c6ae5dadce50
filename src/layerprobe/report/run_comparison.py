"""The comparison of runs: their names, the keys in which they differ, the best layer of each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from layerprobe.files.safe_names import printable
from layerprobe.report.config_differences import SEED, differing_keys, short_keys, told_values, value_text
from layerprobe.report.dataset_identity import problem_names, sample_counts, told_apart
from layerprobe.report.networks import Network, networks
from layerprobe.report.run_filter import ConditionError, rows_where
from layerprobe.results.best import BestLayer
from layerprobe.results.reader import Run, find_runs


class ReportError(ValueError):
    """A report that cannot be made from what was given."""


@dataclass(frozen=True)
class Comparison:
    """Several runs and what tells them apart."""

    runs: tuple[Run, ...]
    names: tuple[str, ...]
    keys: tuple[str, ...]

    @cached_property
    def settings(self) -> list[str]:
        """For each run what tells it from others, its seed apart: runs of one setting are repetitions.

        Runs whose configuration says nothing, or the same, are told apart by what their records say of the data and of
        the network.
        """
        told = told_values([run.config for run in self.runs], [key for key in self.keys if key != SEED])
        told = told_apart(told, [sample_counts(run, "train", "test") for run in self.runs])
        different, numbers = self.networks
        named = [different[number].name if different[number].layers else "" for number in numbers]
        return [name or "all runs" for name in told_apart(told, named)]

    @cached_property
    def problems(self) -> list[str]:
        """For each run what tells its data, and what is asked of them, from those of others: see `problem_names`."""
        return problem_names(self.runs)

    @cached_property
    def networks(self) -> tuple[list[Network], list[int]]:
        """The networks of the runs, and for each run the number of its own: see `networks`."""
        return networks(self.runs, self.problems)

    def table(self) -> pd.DataFrame:
        """Lay out the runs.

        Returns:
            One row for each run: `run`, `directory`, `status`, `error`, a column for
            each differing key, and of the layer that validation prefers at the last whole checkpoint: `checkpoint`,
            `best_layer`, `test_error`, `test_error_low`, `test_error_high`; `n_checkpoints`; `notes`.
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        rows = []
        for run, name in zip(self.runs, self.names, strict=True):
            row: dict[str, Any] = {"run": name, "status": run.status}
            row |= {key: run.config.get(key) for key in self.keys}
            layer, *errors = run.best_layer
            row |= {"checkpoint": run.last_checkpoint, "best_layer": layer}
            row |= dict(zip(BestLayer._fields[1:], errors, strict=True))
            row["n_checkpoints"] = int(run.results["checkpoint"].nunique())
            rows.append(row | {"error": run.error, "notes": "; ".join(_notes(run)), "directory": str(run.directory)})
        # A whole number stays one also where another run has none.
        return pd.DataFrame(rows).astype(dict.fromkeys(self.keys, object))

    def joined(self) -> pd.DataFrame:
        """Join all results.

        Returns:
            The rows of all runs in the columns of `ProbeRecord` (its `seed` as `probe_seed`), before them `run`,
            `status` of the run as `run_status`, `directory`, and the differing keys.
        """
        frames = []
        for run, name in zip(self.runs, self.names, strict=True):
            rows = run.results.rename(columns={"seed": "probe_seed"})
            rows = rows.drop(columns=[key for key in self.keys if key in rows])
            about: dict[str, Any] = {"run": name, "run_status": run.status, "directory": str(run.directory)}
            about |= {key: run.config.get(key) for key in self.keys}
            for place, (column, value) in enumerate(about.items()):
                rows.insert(place, column, value)
            frames.append(rows)
        frames = [frame for frame in frames if len(frame)] or frames[:1]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def compare(roots: Iterable[str | Path], where: str | None = None) -> Comparison:
    """Find runs, read them, and put them side by side.

    Args:
        roots: Directories, runs or glob patterns.
        where: A condition on the configuration and on the columns of `Comparison.table`, as `rows_where` takes it, such
            as "model == 'digits_convnet' and optimizer.lr < 0.01".

    Raises:
        ReportError: If there is no run, one of the roots is no directory, no run fulfils the condition, or the
            condition cannot be understood.
    """
    looked = [str(root) for root in roots]
    directories = find_runs(looked)
    wrong: dict[str, str] = {}
    for root in looked:
        if (path := Path(root).expanduser()).is_file():
            wrong[root] = f"{root} is a file, not a directory"
        elif not path.exists() and not any(c in root for c in "*?["):
            wrong[root] = f"{root} does not exist"
    if wrong or not directories:
        found = "; ".join(wrong.values()) or "they hold no `probes/results.parquet`"
        raise ReportError(
            f"No runs in {', '.join(wrong or looked) or 'an empty list'}: {found}. "
            f"Next step: name a directory that holds runs of train.py or probe.py (runs=outputs, runs=[a,b], or a "
            f"quoted pattern)."
        )
    runs = [Run.read(directory) for directory in directories]
    if where:
        runs = _matching(runs, where)
    return side_by_side(runs)


def side_by_side(runs: Sequence[Run]) -> Comparison:
    """Put runs side by side."""
    overridden = list(dict.fromkeys(key for run in runs for key in run.overrides))
    keys = differing_keys([run.config for run in runs], overridden) if len(runs) > 1 else []
    return Comparison(tuple(runs), tuple(_names(runs, keys)), tuple(keys))


def error_bounds(runs: Sequence[Run]) -> tuple[float, float]:
    """Tell what the test errors of runs cannot go beyond: a share ends at 1, unexplained variance does not."""
    return 0.0, math.inf if any("regression" in set(run.results["task"]) for run in runs) else 1.0


def _notes(run: Run) -> list[str]:
    notes = list(run.notes)
    if run.unmerged:
        notes.append(f"ended while {', '.join(sorted(run.unmerged))} was probed")
    if run.results.empty and not notes:
        notes.append("no layer was probed")
    return notes


def _names(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """Name what differs, where that is little; else the directory. Names that coincide get the directory's end."""
    short = short_keys(keys)
    named = [key for key in keys if any(key in run.overrides for run in runs)][:4] or list(keys[:3])
    bases = [printable(_base(run)) for run in runs]
    jobs = {run.directory.resolve().name for run in runs if run.directory.resolve().name.isdecimal()}
    names = []
    for run, base in zip(runs, bases, strict=True):
        told = [key for key in named if key != "experiment" and run.config.get(key) is not None]
        parts = [f"{short[key]}={value_text(run.config[key])}" for key in told]
        # What all share tells none apart, nor does the number of a job.
        alone = parts and (len(set(bases)) == 1 or set(bases) <= jobs)
        names.append(" ".join(parts if alone else [base, *parts]))
    for depth in range(1, 12):
        repeated = {name for name in names if names.count(name) > 1}
        if not repeated:
            break
        for i, (name, run) in enumerate(zip(names, runs, strict=True)):
            if name in repeated:
                folders = run.directory.resolve().parts[-depth:]
                names[i] = f"{name.partition(' · ')[0]} · {printable('/'.join(folders))}"
    return names


def _base(run: Run) -> str:
    """Return the name that was given on the command line, else the experiment's."""
    config = run.config
    given = config.get("name") if "name" in run.overrides else None
    return str(given or config.get("experiment") or config.get("name") or run.directory.resolve().name)


def _matching(runs: Sequence[Run], where: str) -> list[Run]:
    table = side_by_side(runs).table()
    config = pd.DataFrame([dict(run.config) for run in runs])
    table = pd.concat([table.drop(columns=[name for name in table if name in config]), config], axis=1)
    known = [str(name) for name in table]
    try:
        kept = rows_where(table, where)
    except ConditionError as error:
        near = [n for word in re.findall(r"[A-Za-z_][\w.]*", where) for n in get_close_matches(word, known, 3, 0.5)]
        names = list(dict.fromkeys([*near, *side_by_side(runs).keys, "run", "status", "best_layer", "test_error"]))
        raise ReportError(
            f"where={where!r} cannot be understood: {error}. It is a condition such as "
            f"where=\"model=='digits_convnet' and seed<3\", on any key of the configuration. Next step: use names "
            f"such as {', '.join(names)}."
        ) from error
    if len(kept) == 0:
        values = {
            n: ", ".join(sorted({value_text(v) for v in table[n]})[:8])
            for n in known
            if re.search(rf"\b{re.escape(n)}\b", where)
        }
        found = "; ".join(f"{name} is {value}" for name, value in values.items())
        raise ReportError(f"where={where!r} leaves none of {len(runs)} runs: {found or 'none fulfils it'}.")
    return [runs[i] for i in kept]
