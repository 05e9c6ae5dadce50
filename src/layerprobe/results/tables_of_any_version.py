"""Tables of results as any version of layerprobe wrote them, for readers that do not write."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

import pandas as pd
import pyarrow as pa

from layerprobe.files.errors import DamagedFileError
from layerprobe.files.parquet import read_parquet
from layerprobe.results.arrow_tables import OPTIONAL, ROWS, SchemaError, version_of
from layerprobe.results.layer_parts import unfolded
from layerprobe.types import MetricRecord, PathRecord, ProbeRecord

Kind: TypeAlias = type[ProbeRecord] | type[PathRecord] | type[MetricRecord]

_NEEDED: dict[Kind, tuple[str, ...]] = {
    ProbeRecord: ("checkpoint", "depth", "layer", "test_error"),
    PathRecord: ("checkpoint", "layer", "l2"),
    MetricRecord: ("checkpoint", "layer", "head", "test_set", "metric", "value"),
}
_COLUMN: dict[Kind, str] = {ProbeRecord: "record", PathRecord: "path", MetricRecord: "metrics"}
_F1, _F1_SINCE = "test_f1", 7
"""F1 on test, and the first schema with today's meaning of it."""
_EMPTY: dict[type, object] = {str: "", int: 0, float: float("nan"), bool: False}


def read_any_version(file: Path, kind: Kind, parts: Iterable[Path] = ()) -> tuple[pd.DataFrame, list[str]]:
    """Read rows written under any schema: columns that are missing are filled, those that are unknown are kept.

    `ProbeStore` refuses such files, since it would write them again.

    Args:
        file: `results.parquet`, `path.parquet` or `metrics.parquet`; it may be missing.
        kind: What a row should be.
        parts: Files of single layers that a process left before it merged them; they win over the file's rows.

    Returns:
        The rows with the columns of `kind` first, and the names of the columns that were missing, or had another
        meaning. A missing text is empty, a missing number NaN, a missing whole number 0.

    Raises:
        SchemaError: If a file is no Parquet, or lacks what no row can do without.
        FileNotFoundError: Where a part is gone, as when a process merges them.
    """
    tables = list(_tables(file, _COLUMN[kind], parts))
    frames = [_with_todays_meaning(table) for table in tables]
    for frame in frames:
        if missing := [name for name in _NEEDED[kind] if name not in frame]:
            raise SchemaError(
                f"{file} lacks the columns {', '.join(missing)}; it is no file of {kind.__name__}s. "
                f"Next step: move it away, or probe these checkpoints again."
            )
    if not frames:
        return no_rows(kind), []
    names = [field.name for field in fields(kind)]
    keys = ["checkpoint", "layer"]
    rows: Any = frames[0]
    for frame in frames[1:]:
        known = pd.MultiIndex.from_frame(rows[keys])
        rows = pd.concat([rows, frame[~pd.MultiIndex.from_frame(frame[keys]).isin(known)]], ignore_index=True)
    absent = [name for name in names if name not in rows]
    other = [_F1] if any(_of_another_f1(table).any() for table in tables) else []
    hints = get_type_hints(kind) if absent else {}
    rows = rows.assign(**{name: _EMPTY[hints[name]] for name in absent})
    return rows[[*names, *(name for name in rows if name not in names)]], absent + other


def no_rows(kind: Kind) -> pd.DataFrame:
    """Return the columns of a record without any row."""
    return ROWS[_COLUMN[kind]].empty_table().to_pandas()


def read_correct(file: Path, parts: Iterable[Path] = (), *, by_test_set: bool = False) -> pd.DataFrame:
    """Read which test samples each selected head gets right.

    Args:
        file: `correct.parquet`, or `answers.parquet`; it may be missing.
        parts: Files of single layers, as for `read_any_version`.
        by_test_set: Whether to read what there is of each of several test sets.

    Returns:
        checkpoint, layer, `samples` (the fingerprint of the test samples, empty where an older version wrote none) and
        `correct`, a bool array (n), and of several test sets `test_set`; no row where nothing was kept.

    Raises:
        SchemaError: If a file is no Parquet, or lacks these columns.
        FileNotFoundError: Where a part is gone, as when a process merges them.
    """
    name, keys = "answers" if by_test_set else "correct", ["checkpoint", "layer", *["test_set"] * by_test_set]
    columns, tables = [*keys, "correct"], _tables(file, name, parts)
    for table in tables:
        if missing := [name for name in columns if name not in table.column_names]:
            raise SchemaError(f"{file} lacks the columns {', '.join(missing)}. Next step: move it away.")
    columns.insert(len(keys), "samples")
    if not tables:
        return pd.DataFrame(columns=columns)
    frames = [table.select([name for name in columns if name in table.column_names]).to_pandas() for table in tables]
    rows = pd.concat([frame.assign(samples=frame.get("samples", "")) for frame in frames], ignore_index=True)[columns]
    return rows.drop_duplicates(keys, ignore_index=True)


def _tables(file: Path, column: str, parts: Iterable[Path]) -> list[pa.Table]:
    """Return the rows of each part in a column, which those of earlier versions may lack, then those of the file."""
    tables = []
    for part in parts:
        table = _read(part)
        if column in table.column_names:
            rows = unfolded(table.column(column))
            tables.append(rows.replace_schema_metadata(table.schema.metadata))
        elif column not in OPTIONAL:
            raise SchemaError(f"{part} is no part of a run: it has no column '{column}'. Next step: move it away.")
    return [*tables, _read(file)] if file.exists() else tables


def _read(file: Path) -> pa.Table:
    try:
        return read_parquet(file)
    except DamagedFileError as error:
        raise SchemaError(f"{error} Next step: move it away.") from error


def _with_todays_meaning(table: pa.Table) -> pd.DataFrame:
    """Leave out what earlier versions meant otherwise.

    Selectivity was the difference to shuffled labels, not the control task; F1 of more than two classes the mean over
    all of them, with 0 for one that is neither true nor predicted.
    """
    outdated = {"selectivity"} & set(table.column_names) if "control_error" not in table.column_names else set()
    frame = table.drop_columns(sorted(outdated)).to_pandas()
    if _F1 in frame:
        frame.loc[_of_another_f1(table), _F1] = float("nan")
    return frame


def _of_another_f1(table: pa.Table) -> pd.Series:
    """Choose rows whose F1 is over classes that no sample has, too."""
    if _F1 not in table.column_names or version_of(table) >= _F1_SINCE:
        return pd.Series(False, index=range(len(table)))
    rows = table.select([name for name in ("n_classes", "task", _F1) if name in table.column_names]).to_pandas()
    of_two = rows.get("n_classes", 0) == 2
    of_labels = rows.get("task", "classification") == "multi_label"  # a mean over labels, of two classes each
    return rows[_F1].notna() & ~(of_two | of_labels)
