"""The data of the page: the results of many runs as small tables that the views join again.

A row of `rows` is a number for the run, the checkpoint and the layer; what is said about these once is in `runs`,
`checkpoints` and `layers`. That takes a fifth of the space of the joined rows, and the page holds a hundred runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from layerprobe.report.charts.beyond_linear import reader_name
from layerprobe.report.config_differences import SEED, ordered_values, short_keys, value_text
from layerprobe.report.networks import Network
from layerprobe.report.page.measures import Measure, measures
from layerprobe.report.run_comparison import Comparison, error_bounds
from layerprobe.report.tidy import AT_RANDOM, evenly, features_texts
from layerprobe.results.baselines import constant_answer, of_baselines
from layerprobe.results.logged_metrics import DIFFERENCE, compared_errors
from layerprobe.results.tables_of_any_version import no_rows
from layerprobe.types import MetricRecord

T = TypeVar("T", bound=Hashable)

_MOST_CHECKPOINTS = 12
_WAY = ("reducer", "solver", "seed")
_APART = 12
"""Runs up to which the scatter plot draws them above one another."""


@dataclass(frozen=True)
class ConfigKey:
    """Something that runs can be coloured or laid out by.

    Attributes:
        field: Column of `PageData.runs` with its text; `<field>_place` is the place of the value.
        name: What a reader calls it.
        values: Its values in order.
    """

    field: str
    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class PageData:
    """What the page draws.

    Attributes:
        runs: One row for each run: `run` (number), `name`, `status`, `setting`, `problem`,
            `network` (number), `last` (its last whole checkpoint), `best_layer`, `best_error`,
            `offset` (beside the place of a value), and the text and place of each key.
        layers: One row for each layer: `layer` (number), `layer_name` (number), `name`, `depth`,
            `position` (its place on an axis), `kind`, `shape`, `features`.
        rows: One row for each run, checkpoint and layer, as numbers; with `step`, `error`, `low`, `high`, `l2`,
            `status`, `majority`, `shuffled` and `control_task`, and the columns of `measures`.
        paths: One row for each path: `run`, `checkpoint`, `layer_name`, `l2` and `val_error` (numbers, with
            spaces between), `selected` (place of the chosen one) and `way` (its reducer, solver and seed).
        reducers: Where a run chose between reducers, one row for each run, checkpoint, layer and `reducer`:
            `val_error`, the lowest on its path. The test split is read by the chosen head alone.
        readers: One row for each run, checkpoint, layer and `reader` that was compared with the linear head: its
            `error`, and the head's less its own as `difference`, with `low` and `high`.
        measures: What can be drawn in place of the test error.
        keys: What runs can be coloured by, the most telling first.
        checkpoints: Names of the checkpoints, in the order of training.
        layer_names: Names of the layers, in order of depth.
        networks: The networks of the runs.
        same_layers: Whether a depth is the same layer in every run.
        left_out: What the page does not hold, in words.
        highest_error: What a test error cannot go beyond.
        constants: What the best constant answer to each problem is called, such as "majority".
    """

    runs: pd.DataFrame
    layers: pd.DataFrame
    rows: pd.DataFrame
    paths: pd.DataFrame
    reducers: pd.DataFrame
    readers: pd.DataFrame
    measures: tuple[Measure, ...]
    keys: tuple[ConfigKey, ...]
    checkpoints: tuple[str, ...]
    layer_names: tuple[str, ...]
    networks: tuple[Network, ...]
    same_layers: bool
    left_out: tuple[str, ...]
    highest_error: float
    constants: Mapping[str, str]

    @cached_property
    def texts(self) -> dict[str, str]:
        """The text of each data source of the views, by its name."""
        checkpoints = pd.DataFrame({"checkpoint": range(len(self.checkpoints)), "name": self.checkpoints})
        names = ("rows", "runs", "layers", "paths", "reducers", "readers")
        return {**{name: as_csv(getattr(self, name)) for name in names}, "checkpoints": as_csv(checkpoints)}

    @property
    def constant(self) -> str:
        """What the best constant answers to all problems are called."""
        return " or ".join(sorted(set(self.constants.values())))

    @property
    def swept_paths(self) -> pd.DataFrame:
        """The paths of more than one L2 value."""
        return self.paths[self.paths["l2"].str.contains(" ")]


def page_data(comparison: Comparison, path_budget: int = 1_000_000) -> PageData:
    """Make the data.

    Args:
        comparison: The runs.
        path_budget: Bytes of paths at most; where there are more, those of the last checkpoint are kept first.
    """
    left_out: list[str] = []
    results = pd.concat([run.results.assign(run=i) for i, run in enumerate(comparison.runs)], ignore_index=True)
    checkpoints = _checkpoints(results)
    if len(checkpoints) > _MOST_CHECKPOINTS:
        left_out.append(
            f"Of {len(checkpoints)} checkpoints, {_MOST_CHECKPOINTS} are shown; the table of results has all"
        )
        checkpoints = evenly(checkpoints, _MOST_CHECKPOINTS)
        results = results[results["checkpoint"].isin(checkpoints)]
    numbers = {"checkpoint": _numbers(checkpoints)}
    results = results.assign(checkpoint=results["checkpoint"].map(numbers["checkpoint"]))
    results, layers, names = _layers(results)
    numbers["layer"] = _numbers(names)
    keys = _keys(comparison)
    paths, reducers = _paths(comparison, numbers)
    if _bytes(paths) > path_budget:
        keep = paths[paths["checkpoint"] == paths["checkpoint"].max()]
        if _bytes(keep) > path_budget:
            keep = keep.iloc[: max(1, int(len(keep) * path_budget / _bytes(keep)))]
        left_out.append(
            f"Of {len(paths):,} L2 paths, {len(keep):,} are shown; each run's path.parquet has all of its own"
        )
        paths = keep
    same = bool(layers.groupby("depth")["name"].nunique().max() == 1) if len(layers) else True
    depths = _numbers(sorted(set(layers["depth"])))
    layers.insert(4, "position", layers["depth"].map(depths) if same else layers["depth"])
    known, measured = measures(comparison, results, numbers)
    different, network = comparison.networks
    return PageData(
        runs=_runs(comparison, keys).assign(network=network),
        layers=layers,
        rows=_rows(results).merge(measured, on=["run", "checkpoint", "layer_name"]).drop(columns="layer_name"),
        paths=paths,
        reducers=_reducers(reducers, results),
        readers=_readers(comparison, results, numbers),
        measures=known,
        keys=keys,
        checkpoints=tuple(checkpoints),
        layer_names=tuple(names),
        networks=tuple(different),
        same_layers=same,
        left_out=tuple(left_out),
        highest_error=error_bounds(comparison.runs)[1],
        constants=_constants(comparison),
    )


def _constants(comparison: Comparison) -> dict[str, str]:
    """Say what the best constant answer to each problem is called."""
    found: dict[str, set[str]] = {}
    for problem, run in zip(comparison.problems, comparison.runs, strict=True):
        found.setdefault(problem, set()).add(constant_answer(run.results).removesuffix(" class"))
    return {problem: " or ".join(sorted(names)) for problem, names in found.items()}


def _numbers(items: Iterable[T]) -> dict[T, int]:
    return {item: i for i, item in enumerate(items)}


def _checkpoints(results: pd.DataFrame) -> list[str]:
    """List baselines, then checkpoints in the order of training of all runs: untrained, by usual step, `final` last."""
    steps = results.groupby("checkpoint", sort=False)["step"].median()
    baselines = results.loc[of_baselines(results), "checkpoint"].unique()
    ends = dict.fromkeys(baselines, -2) | dict.fromkeys(AT_RANDOM, -1) | {"final": 1}
    return sorted(steps.index, key=lambda name: (ends.get(name, 0), steps[name]))


def _layers(results: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    about = ["layer", "depth", "kind", "shape", "n_features_full", "n_features"]
    layers = results[about].drop_duplicates(ignore_index=True).sort_values("depth", kind="stable", ignore_index=True)
    names = layers["layer"].drop_duplicates().tolist()
    number, named = _numbers(layers.itertuples(index=False, name=None)), _numbers(names)
    results = results.assign(
        layer_name=results["layer"].map(named),
        layer=[number[row] for row in results[about].itertuples(index=False, name=None)],
    )
    table = pd.DataFrame(
        {
            "layer": range(len(layers)),
            "layer_name": layers["layer"].map(named),
            "name": layers["layer"],
            "depth": layers["depth"],
            "kind": layers["kind"],
            "shape": layers["shape"],
            "features": features_texts(layers),
        }
    )
    return results, table, names


def _rows(results: pd.DataFrame) -> pd.DataFrame:
    columns = {
        "run": "run", "checkpoint": "checkpoint", "layer": "layer", "step": "step", "error": "test_error",
        "low": "test_error_low", "high": "test_error_high", "l2": "l2", "status": "status",
        "majority": "majority_error", "shuffled": "shuffled_error",
        "control_task": "control_error", "layer_name": "layer_name",
    }  # fmt: skip
    return pd.DataFrame({name: results[column] for name, column in columns.items()})


def _keys(comparison: Comparison) -> tuple[ConfigKey, ...]:
    found = []
    short = short_keys(comparison.keys)
    for i, key in enumerate(comparison.keys):
        values = ordered_values([run.config.get(key) for run in comparison.runs])
        found.append(ConfigKey(f"key{i}", short[key], tuple(values)))
    if len(set(comparison.settings)) > 1 and len([key for key in comparison.keys if key != SEED]) != 1:
        found.append(ConfigKey("setting", "setting", tuple(dict.fromkeys(comparison.settings))))
    return (*found, ConfigKey("name", "run", comparison.names))


def _runs(comparison: Comparison, keys: Sequence[ConfigKey]) -> pd.DataFrame:
    table = comparison.table()
    frame = pd.DataFrame(
        {
            "run": range(len(comparison.runs)),
            "name": comparison.names,
            "status": table["status"],
            "setting": comparison.settings,
            "problem": comparison.problems,
            "last": [run.last_checkpoint for run in comparison.runs],
            "best_layer": table["best_layer"],
            "best_error": table["test_error"],
            "best_low": table["test_error_low"],
            "best_high": table["test_error_high"],
        }
    )
    # Side by side where many share one place; the golden ratio spreads any number of them.
    many = len(frame) > _APART
    frame["offset"] = [round((0.618034 * i % 1 - 0.5) * 0.5, 3) if many else 0.0 for i in range(len(frame))]
    for i, key in enumerate(comparison.keys):
        frame[f"key{i}"] = [value_text(run.config.get(key)) for run in comparison.runs]
    for item in keys:
        frame[f"{item.field}_place"] = frame[item.field].map(_numbers(item.values))
    return frame


def _reducers(paths: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    several = paths.groupby(["run", "checkpoint"])["reducer"].nunique()
    paths = paths[paths["run"].isin(several[several > 1].index.get_level_values("run"))]
    lowest = paths.groupby(["run", "checkpoint", "layer_name", "reducer"], sort=False)["val_error"].min().reset_index()
    layers = results[["run", "checkpoint", "layer_name", "layer"]]
    return lowest.merge(layers, on=["run", "checkpoint", "layer_name"]).drop(columns="layer_name")


def _readers(comparison: Comparison, results: pd.DataFrame, numbers: Mapping[str, Mapping[str, int]]) -> pd.DataFrame:
    at = ["checkpoint", "layer", "head"]
    found = []
    for i, run in enumerate(comparison.runs):
        if (metrics := run.metrics()).empty:
            continue
        errors = compared_errors(metrics)[[*at, "value"]].rename(columns={"value": "error"})
        found.append(compared_errors(metrics, DIFFERENCE).merge(errors, on=at, how="left").assign(run=i))
    rows = pd.concat(found, ignore_index=True) if found else no_rows(MetricRecord).assign(run=0, error=0.0)
    rows = rows.assign(
        checkpoint=rows["checkpoint"].map(numbers["checkpoint"]),
        layer_name=rows["layer"].map(numbers["layer"]),
        reader=[reader_name(head) for head in rows["head"]],
    ).rename(columns={"value": "difference"})
    known = ["run", "checkpoint", "layer_name"]
    rows = rows[[*known, "reader", "error", "difference", "low", "high"]]
    return rows.merge(results[[*known, "layer"]], on=known).drop(columns="layer_name")


def _paths(comparison: Comparison, numbers: Mapping[str, Mapping[str, int]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the paths, and the lowest validation error of each with its reducer."""
    place, named = numbers["checkpoint"], numbers["layer"]
    rows: list[tuple[Any, ...]] = []
    best: list[tuple[Any, ...]] = []
    for i, run in enumerate(comparison.runs):
        path = run.path()
        path = path[
            (path["control"] == "none") & path["checkpoint"].isin(place) & path["layer"].isin(named)
            & path["val_error"].notna()
        ]  # fmt: skip
        told = [name for name in _WAY if path[name].nunique() > 1]
        # Columns as lists: a frame for each of tens of thousands of paths would take most of the time.
        group = path.groupby(["checkpoint", "layer", *_WAY], sort=False).ngroup().to_numpy()
        order = np.lexsort((path["l2"].to_numpy(), group))
        ends = [*np.flatnonzero(np.diff(group[order], prepend=-1)).tolist(), len(order)]
        column = {name: path[name].to_numpy()[order].tolist() for name in path}
        for at, end in itertools.pairwise(ends):
            head = (i, place[column["checkpoint"][at]], named[column["layer"][at]])
            chosen, errors = column["selected"][at:end], column["val_error"][at:end]
            l2, texts = (" ".join(f"{v:.4g}" for v in values) for values in (column["l2"][at:end], errors))
            way = " ".join(str(column[name][at]) for name in told)
            rows.append((*head, l2, texts, chosen.index(True) if True in chosen else -1, way))
            best.append((*head, column["reducer"][at], min(errors)))
    columns = ["run", "checkpoint", "layer_name", "l2", "val_error", "selected", "way"]
    lowest = pd.DataFrame(best, columns=[*columns[:3], "reducer", "val_error"])
    return pd.DataFrame(rows, columns=columns), lowest


def as_csv(frame: pd.DataFrame) -> str:
    """Write a table with six digits, which is more than any tooltip shows."""
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _bytes(frame: pd.DataFrame) -> int:
    if frame.empty:
        return 0
    sample = frame.iloc[:: max(1, math.ceil(len(frame) / 200))]
    return int(len(as_csv(sample)) / len(sample) * len(frame))
