"""The reader of runs: how each ended, its configuration and its results, written by any version of layerprobe."""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import yaml

from layerprobe.files.natural_order import natural_order
from layerprobe.files.safe_names import printable, with_printable_names
from layerprobe.results.arrow_tables import SchemaError
from layerprobe.results.best import BestLayer, at_checkpoint, best_of, last_checkpoint
from layerprobe.results.config_identity import matters
from layerprobe.results.config_migration import PACKAGES, current_key, current_override
from layerprobe.results.heads import find_head, outputs_of, read_arrays, read_recipe
from layerprobe.results.plane_frames import read_plane_frames
from layerprobe.results.run_summary import RunSummary
from layerprobe.results.scores import read_scores, score_frame
from layerprobe.results.tables_of_any_version import Kind, no_rows, read_any_version, read_correct
from layerprobe.types import MetricRecord, PathRecord, ProbeRecord

T = TypeVar("T")

# libyaml's parser where PyYAML has it, which reads the same and takes a tenth of the time.
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NO_FILE = Path(os.devnull, "none")
_PASSED_OVER = {"checkpoints", "wandb", "figures", "probes", "lightning_logs", "csv", "__pycache__", "previous"}


@dataclass(frozen=True)
class Run:
    """One run, wherever its directory lies now.

    Attributes:
        directory: The directory.
        status: `done`, `failed`, `interrupted`, or `unfinished` where it is going on or was killed.
        error: What went wrong; empty where nothing did.
        config: The configuration with dotted keys; `model`, `data`, … are the chosen files of the groups. A value that
            only repeats another, or that is no part of the run's identity, is left out.
        overrides: Keys that the command line changed.
        results: One row for each checkpoint and layer, in the columns of `ProbeRecord` and perhaps more. Names,
            here and in the configuration, are as they can be printed.
        unmerged: Checkpoints whose layers may not all be there, since the run ended while they were probed.
        notes: What a reader should know about the files, such as columns that an older version did not write.
    """

    directory: Path
    status: str
    error: str
    config: Mapping[str, Any]
    overrides: tuple[str, ...]
    results: pd.DataFrame
    unmerged: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, directory: Path) -> Run:
        """Read a run.

        Returns:
            The run. Files that cannot be read are named in `notes` and leave the results empty.
        """
        directory, notes = Path(directory), []
        summary = RunSummary.read(directory)
        if summary is not None and summary.status == "unreadable":
            notes.append(summary.error)
            summary = None
        probes = _probes(directory)
        unmerged: set[str] = set()
        try:
            (results, absent), unmerged = _read_with_parts(
                probes,
                lambda parts: (
                    read_any_version(probes / "results.parquet", ProbeRecord, parts),
                    {printable(checkpoint) for checkpoint in _checkpoints_of(parts)},
                ),
            )
        except SchemaError as error:
            results, absent = no_rows(ProbeRecord), []
            notes.append(str(error))
        if absent:
            notes.append(f"written by another version, without {', '.join(absent)}")
        config, overrides = _configuration(directory / ".hydra")
        return cls(
            directory,
            summary.status if summary else "unfinished",
            summary.error if summary else "",
            config,
            overrides,
            with_printable_names(results),
            frozenset(unmerged),
            tuple(notes),
        )

    @cached_property
    def last_checkpoint(self) -> str:
        """Name of its last whole checkpoint, as `best.last_checkpoint`."""
        return last_checkpoint(self.results, self.unmerged)

    @cached_property
    def last_rows(self) -> pd.DataFrame:
        """Its rows there, as `best.at_last_checkpoint`."""
        return at_checkpoint(self.results, self.last_checkpoint)

    @cached_property
    def best_layer(self) -> BestLayer:
        """The layer that validation prefers there, as `best.best_layer`."""
        return best_of(self.last_rows)

    def path(self) -> pd.DataFrame:
        """Return every swept head, in the columns of `PathRecord`; no row where the run kept none."""
        return self._kept("path.parquet", partial(_rows_of, PathRecord))

    def metrics(self) -> pd.DataFrame:
        """Return what else was measured, in the columns of `MetricRecord`; no row where the run kept none."""
        return self._metrics.copy(deep=False)

    @cached_property
    def _metrics(self) -> pd.DataFrame:
        rows = self._kept("metrics.parquet", partial(_rows_of, MetricRecord))
        keys = ["checkpoint", "layer"]
        without = self.results.loc[self.results["test_f1"].isna(), keys]  # of an earlier version, with another meaning
        unknown = pd.MultiIndex.from_frame(rows[keys]).isin(pd.MultiIndex.from_frame(without))
        rows.loc[unknown & (rows["metric"] == "f1"), ["value", "low", "high"]] = np.nan
        return rows

    def _kept(self, name: str, read: Callable[[Path, Iterable[Path]], pd.DataFrame]) -> pd.DataFrame:
        """Return the rows of a file and of the parts; none where one of them cannot be read."""
        try:
            rows = _read_with_parts(self.probes, partial(read, self.probes / name))
        except SchemaError:
            rows = read(_NO_FILE, ())
        return with_printable_names(rows)

    def correct(self) -> pd.DataFrame:
        """Return checkpoint, layer, `samples` and the bool array `correct` (n) of each selected head."""
        return self._kept("correct.parquet", read_correct)

    def answers(self) -> pd.DataFrame:
        """Return the same of each test set by its name, `test_set`, the primary one first; one alone may be `test`."""
        several = self._kept("answers.parquet", partial(read_correct, by_test_set=True))
        first = self.correct().assign(test_set="test")
        keys = ["checkpoint", "layer"]
        known = pd.MultiIndex.from_frame(first[keys]).isin(pd.MultiIndex.from_frame(several[keys]))
        return pd.concat([several, first[~known]], ignore_index=True)

    def head(self, checkpoint: str, layer: str) -> dict[str, np.ndarray]:
        """Read the selected head of a layer.

        Returns:
            The arrays as they were written: `weight` (c d), `bias` (c), `mean` (d), `scale` (d).

        Raises:
            KeyError: Where there is none.
            DamagedFileError: Where its file is no whole Safetensors file.
        """
        return read_arrays(find_head(self.probes, checkpoint, layer))

    def scores(self, checkpoint: str, layer: str) -> pd.DataFrame:
        """Read the selected head's scores of every test sample, as `score_frame` lays them out.

        Raises:
            KeyError: Where there are none.
        """
        found = read_scores(self.probes, checkpoint, layer)
        if not found:
            raise KeyError(
                f"no scores of layer '{layer}' at checkpoint '{checkpoint}' are kept in {self.probes}. "
                "Next step: probe with probe.scores=true."
            )
        recipe, head = read_recipe(self.probes, checkpoint, layer), self.head(checkpoint, layer)
        return score_frame(found, outputs_of(head), () if recipe is None else recipe.words)

    def plane_frames(self) -> dict[str, pd.DataFrame]:
        """Read what a run of a small network keeps of the plane, as `read_plane_frames`."""
        return read_plane_frames(self.probes)

    @property
    def probes(self) -> Path:
        """The folder of the results: `probes/`, or the directory itself where nothing but results was saved."""
        return _probes(self.directory)


def find_runs(roots: Iterable[str | Path]) -> list[Path]:
    """Find the directories of runs.

    Args:
        roots: Directories to search, runs themselves, or glob patterns of either (`**` searches any depth).

    Returns:
        Each run's directory once, in the order of the roots, then by name, numbers by their value. Symbolic links are
        followed; a run that has a path without one goes by that path.
    """
    found: dict[Path, Path] = {}
    for root in roots:
        matches = [Path(match) for match in glob.glob(os.path.expanduser(str(root)), recursive=True)]
        seen: set[Path] = set()
        here: dict[Path, Path] = {}
        for match in sorted((m for m in matches if m.is_dir()), key=lambda m: (m.is_symlink(), natural_order(m))):
            here |= {real: directory for real, directory in _walk(match, seen) if real not in found}
        found |= dict(sorted(here.items(), key=lambda item: natural_order(item[1])))
    return list(found.values())


def _walk(directory: Path, seen: set[Path]) -> Iterator[tuple[Path, Path]]:
    """Find every run below, as its real path and the one that leads to it; what was seen is not entered again.

    Links come after everything else, so that neither a loop nor a second way to a run is followed.
    """
    links = deque([directory])
    while links:
        folders = [links.popleft()]
        while folders:
            folder = folders.pop()
            real = folder.resolve()
            if real in seen:
                continue
            seen.add(real)
            if _is_run(folder):
                yield real, folder
            for child in sorted(_folders(folder), key=natural_order, reverse=True):
                (links if child.is_symlink() else folders).append(child)


def _folders(directory: Path) -> list[Path]:
    try:
        children = list(directory.iterdir())
        return [c for c in children if c.name not in _PASSED_OVER and not c.name.startswith(".") and c.is_dir()]
    except OSError:
        return []


def _probes(directory: Path) -> Path:
    inner = directory / "probes"
    return directory if _has_results(directory) and not _has_results(inner) else inner


def _has_results(probes: Path) -> bool:
    return (probes / "results.parquet").is_file() or (probes / "parts").is_dir()


def _read_with_parts(probes: Path, read: Callable[[list[Path]], T]) -> T:
    """Read the files of single layers beside the merged ones; once more where a process merges them meanwhile."""
    while True:
        parts = _parts(probes)
        try:
            return read(parts)
        except FileNotFoundError as error:
            if set(parts) <= set(_parts(probes)):
                raise SchemaError(
                    f"{error} cannot be read, though its folder names it. Next step: move it away."
                ) from error


def _parts(probes: Path) -> list[Path]:
    try:
        return sorted((probes / "parts").glob("*/[!.]*.parquet"))
    except FileNotFoundError:  # a folder that went while its files were listed
        return _parts(probes)


def _is_run(directory: Path) -> bool:
    return (
        _has_results(directory / "probes")
        or (directory / "run.json").is_file()
        or (directory / ".hydra" / "config.yaml").is_file()
    )


def _checkpoints_of(parts: Iterable[Path]) -> set[str]:
    return set(_rows_of(ProbeRecord, _NO_FILE, parts)["checkpoint"])


def _rows_of(kind: Kind, file: Path, parts: Iterable[Path]) -> pd.DataFrame:
    return read_any_version(file, kind, parts)[0]


def _configuration(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    config = _yaml(folder / "config.yaml")
    runtime = _yaml(folder / "hydra.yaml").get("hydra", {})
    choices = runtime.get("runtime", {}).get("choices", {})
    output = str(runtime.get("runtime", {}).get("output_dir") or "\0")
    flat = {
        current_key(key): value
        for key, value in _flat(config, ()).items()
        if matters(key) and not (isinstance(value, str) and ("${" in value or output in value))
    }
    for group, choice in choices.items():
        if not group.startswith("hydra/") and choice is not None and matters(group):
            flat[group.replace("/", ".")] = printable(choice) if isinstance(choice, str) else choice
    task = runtime.get("overrides", {}).get("task", [])
    given = dict(item.lstrip("+~").split("=", 1) for item in task if "=" in item)
    # Of a group of which several are chosen, Hydra keeps no choice.
    flat |= {group: printable(given[group]) for group in PACKAGES if group in given and group not in choices}
    return flat, tuple(current_override(key.replace("/", ".")) for key in given)


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text(), _YAML)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _flat(node: Any, at: tuple[str, ...]) -> dict[str, Any]:
    """Flatten to dotted keys; a class is named by the key of the node that it makes."""
    if not isinstance(node, dict):
        node = str(node) if isinstance(node, list) else node
        return {".".join(at): printable(node) if isinstance(node, str) else node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key == "_target_":
            found[".".join(at)] = str(value).rsplit(".", 1)[-1]
        elif not str(key).startswith("_"):
            found |= _flat(value, (*at, printable(str(key))))
    return found
