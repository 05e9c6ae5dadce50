"""Transfer between data sets: the errors of heads on several test sets, those of other training sets among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from layerprobe.report.config_differences import telling_keys, value_text
from layerprobe.report.dataset_identity import of_problem, problem_config
from layerprobe.results.reader import Run
from layerprobe.results.test_sets import lines_of_test_sets, on_each_test_set

_TESTS = "data.tests."
_COLUMNS = ["train", "test", "depth", "layer", "error", "low", "high", "n_test", "n_runs", "same_samples"]


@dataclass(frozen=True)
class Trained:
    """The heads of one training set, at one checkpoint.

    The results are in the columns of `on_each_test_set`, each test set's fingerprint is empty where it is not
    known.
    """

    train: str
    results: pd.DataFrame
    samples: Mapping[str, str]

    @classmethod
    def of(cls, run: Run, train: str) -> Trained:
        """Take the last whole checkpoint of a run."""
        checkpoint = run.last_checkpoint
        answers = run.answers()
        answers = answers[answers["checkpoint"] == checkpoint].drop_duplicates("test_set")
        samples = dict(zip(answers["test_set"], answers["samples"], strict=True))
        rows = on_each_test_set(run.results, run.metrics(), next(iter(samples), "test"))
        return cls(train, rows[rows["checkpoint"] == checkpoint], samples)


def transfer_table(trained: Sequence[Trained]) -> pd.DataFrame:
    """Lay out what the heads of each training set come to on each test set, layer by layer.

    A test set goes by the name of the training set whose own it is, the primary one of its runs, and else by the name
    that it was given; test sets with the same samples are one. Layers that not all have are left out, and test sets
    that the heads of one training set alone were read on. Heads of one training set, such as those of several seeds,
    are averaged.

    Returns:
        One row for each layer, training set and test set: `train`, `test`, `depth`, `layer`, `error`; `low` and
        `high`, its 95 % interval where it is of one run; `n_test`, `n_runs`; and `same_samples`, whether all who were
        read on a test set of this name were read on the same samples. No row where no two training sets have a test set
        in common.
    """
    trains = list(dict.fromkeys(one.train for one in trained))
    names = _names(trained)
    frames = []
    for one in trained:
        rows = one.results.assign(train=one.train, samples=[one.samples.get(t, "") for t in one.results["test_set"]])
        rows["test"] = [names[_key(one, test_set)] for test_set in rows["test_set"]]
        frames.append(rows.drop_duplicates(["layer", "test"]))
    if len(trains) < 2:
        return pd.DataFrame(columns=_COLUMNS)
    rows = pd.concat(frames, ignore_index=True)
    everywhere = rows.groupby("layer")["train"].nunique() == len(trains)
    readers = rows.groupby("test")["train"].nunique()
    rows = rows[rows["layer"].map(everywhere) & (rows["test"].map(readers) > 1)]
    if rows.empty:
        return pd.DataFrame(columns=_COLUMNS)
    same = rows.groupby("test")["samples"].nunique() == 1
    order = {name: i for i, name in enumerate([*trains, *names.values()][::-1])}
    found = rows.groupby(["depth", "layer", "train", "test"], sort=False).agg(
        error=("test_error", "mean"), low=("test_error_low", "first"), high=("test_error_high", "first"),
        n_test=("n_test", "max"), n_runs=("test_error", "size"),
    ).reset_index()  # fmt: skip
    found.loc[found["n_runs"] > 1, ["low", "high"]] = float("nan")
    found = found.assign(same_samples=found["test"].map(same))
    places = found[["train", "test"]].apply(lambda column: -column.map(order))
    return found.assign(_train=places["train"], _test=places["test"]).sort_values(
        ["depth", "_train", "_test"], kind="stable", ignore_index=True
    )[_COLUMNS]


def transfers(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Find the runs that differ in their data and were read on common test sets.

    Returns:
        A `transfer_table` for each setting of what is no part of the data, by its name, empty where there is one.
    """
    runs = [run for run in runs if run.results["test_error"].notna().any()]
    others = [{key: value for key, value in run.config.items() if not of_problem(key)} for run in runs]
    settings, trains = _values(others), training_sets(runs)
    found = {}
    for setting in dict.fromkeys(settings):
        own = [(run, train) for run, train, other in zip(runs, trains, settings, strict=True) if other == setting]
        if len({train for _, train in own}) > 1:
            found[setting] = transfer_table([Trained.of(run, train) for run, train in own])
    return {setting: table for setting, table in found.items() if len(table)}


def test_set_lines(run: Run) -> pd.DataFrame | None:
    """Lay out a line of `depth_curve` for each test set of a run, at its last checkpoint; None where it has one."""
    if (metrics := run.metrics()).empty:
        return None
    rows = on_each_test_set(run.results[run.results["checkpoint"] == run.last_checkpoint], metrics)
    several = rows["test_set"].nunique() > 1 and rows["test_error"].notna().any()
    return lines_of_test_sets(rows) if several else None


def training_sets(runs: Sequence[Run]) -> list[str]:
    """Name the training set of each run by what its data differ in from those of the others."""
    problems = map(problem_config, runs)
    return _values([{key: one[key] for key in one if not key.startswith(_TESTS)} for one in problems])


def _values(configs: Sequence[Mapping[str, object]]) -> list[str]:
    """Name each value of the keys that tell configurations apart, seeds left out."""
    keys = telling_keys(configs)
    return [", ".join(value_text(one[key]) for key in keys if one.get(key) is not None) for one in configs]


def _key(one: Trained, test_set: str) -> str:
    return one.samples.get(test_set) or f"{one.train}/{test_set}"


def _names(trained: Iterable[Trained]) -> dict[str, str]:
    """Name each test set by its samples."""
    given: dict[str, str] = {}
    own: dict[str, set[str]] = {}
    for one in trained:
        primary = one.results["test_set"].iloc[0] if len(one.results) else ""
        for test_set in one.results["test_set"].unique():
            key = _key(one, test_set)
            if test_set == primary:
                own.setdefault(key, set()).add(one.train)
            if test_set != "test" or key not in given:
                given[key] = test_set
    return {key: next(iter(own[key])) if len(own.get(key, ())) == 1 else name for key, name in given.items()}
