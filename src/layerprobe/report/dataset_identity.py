"""Identity of the data sets of runs: only runs of the same data and targets are averaged or share a control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerprobe.formatting import count_text
from layerprobe.report.config_differences import SEED, differing_keys, told_values
from layerprobe.results.config_identity import SAME_SAMPLES, matters
from layerprobe.results.config_migration import PACKAGES
from layerprobe.results.reader import Run

_PARTS = ("data", *(part for group in ("targets", "task", "inputs") for part in (group, PACKAGES[group])))


def of_problem(key: str) -> bool:
    """Tell whether a dotted key of a configuration is a part of the learning problem."""
    return any(f"{key}.".startswith(f"{part}.") for part in _PARTS)


def problem_config(run: Run) -> dict[str, Any]:
    """Take the part of a run's configuration that its learning problem is told by."""
    return {key: value for key, value in run.config.items() if of_problem(key) and matters(key, SAME_SAMPLES)}


def problem_names(runs: Sequence[Run]) -> list[str]:
    """Name the problem of each run, its data and what is asked of them; empty where there is only one.

    Two runs have one problem where these parts of their configuration are equal, and their records have the same task,
    number of classes and number of test samples. Runs without results go by their configuration.
    """
    configs = [problem_config(run) for run in runs]
    told = told_values(configs, [key for key in differing_keys(configs) if key != SEED])
    return told_apart(told, [sample_counts(run, "test") for run in runs])


def sample_counts(run: Run, *splits: str) -> str:
    """Say what a run's records tell of its problem, such as "10 classes, 360 test samples"; empty without any."""
    numbers = [f"n_{split}" for split in splits]
    found = run.results.loc[run.results["n_test"] > 0, ["task", "n_classes", *numbers]]
    texts = []
    for task, n, *counts in found.drop_duplicates().itertuples(index=False):
        kind = {"classification": "class", "multi_label": "label", "regression": "value"}.get(task, "output")
        samples = [count_text(count, f"{split} sample") for split, count in zip(splits, counts, strict=True)]
        texts.append(", ".join([count_text(n, kind), *samples]))
    return " and ".join(texts)


def told_apart(names: Sequence[str], facts: Sequence[str]) -> list[str]:
    """Add facts to names that several have whose facts differ; an empty fact is unknown, and tells nothing."""
    known: dict[str, list[str]] = {}
    for name, fact in zip(names, facts, strict=True):
        if fact and fact not in known.setdefault(name, []):
            known[name].append(fact)
    return [
        ", ".join(filter(None, (name, fact))) if len(known.get(name, ())) > 1 else name
        for name, fact in zip(names, facts, strict=True)
    ]
