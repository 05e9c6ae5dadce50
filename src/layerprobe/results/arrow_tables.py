"""Records as Arrow tables of typed columns: the schemas of a run's tables, and their version."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import fields
from pathlib import Path
from typing import TypeAlias, get_type_hints

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from layerprobe.files.errors import UnusableFileError, aside
from layerprobe.formatting import first_line
from layerprobe.types import MetricRecord, PathRecord, ProbeRecord

Record: TypeAlias = ProbeRecord | PathRecord | MetricRecord

SCHEMA_VERSION = 7
"""Raised whenever a column is added, removed, renamed or changes its meaning."""

_VERSION_KEY = b"layerprobe.schema"
_KIND_KEY = b"layerprobe.record"
_ARROW: dict[type, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class SchemaError(UnusableFileError):
    """A results file that this version of layerprobe cannot read."""


class DamagedTableError(SchemaError):
    """A results file that is cut short, or holds something else than a table."""


def schema(kind: type[Record]) -> pa.Schema:
    """Make the Arrow schema of a record, a typed column for each field in their order, and the version beside."""
    hints = get_type_hints(kind)
    columns = [pa.field(field.name, _ARROW[hints[field.name]]) for field in fields(kind)]
    return stamp(pa.schema(columns), kind.__name__)


def stamp(columns: pa.Schema, kind: str) -> pa.Schema:
    """Write the schema's version and the name of its rows into the metadata, which `read_table` checks."""
    return columns.with_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode(), _KIND_KEY: kind.encode()})


def to_table(records: Iterable[Record], kind: type[Record]) -> pa.Table:
    """Lay out records as an Arrow table."""
    rows = list(records)
    columns = schema(kind)
    return pa.table([pa.array([getattr(row, c.name) for row in rows], type=c.type) for c in columns], schema=columns)


def to_frame(records: Iterable[Record], kind: type[Record] = ProbeRecord) -> pd.DataFrame:
    """Lay out records as a data frame.

    Returns:
        One row for each record, one column for each field: int64, float64, bool or string, also when empty.
    """
    return to_table(records, kind).to_pandas()


def from_table(table: pa.Table) -> list[ProbeRecord]:
    """Give back the records of a table made by `to_table`."""
    return [ProbeRecord(**row) for row in table.to_pylist()]


def read_table(path: Path, expected: pa.Schema, may_lack: Collection[str] = ()) -> pa.Table:
    """Read a results file, after a look at its version.

    Args:
        path: A Parquet file written by a store.
        expected: The stamped schema of what it should hold.
        may_lack: Columns that earlier versions did not write.

    Raises:
        FileNotFoundError: If there is no such file.
        SchemaError: If the file holds something else, or was written under another schema; where it is not Parquet, a
            `DamagedTableError`.
    """
    with _opened(path) as file:
        _check(file.schema_arrow, path, expected, may_lack)
        try:
            return file.read()
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error


def check_table(path: Path) -> None:
    """See that a results file is not cut short, without reading its rows.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedTableError: If the file is not Parquet.
    """
    _opened(path).close()


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DamagedTableError:
    reason = first_line(error).split(". ")[0].rstrip(".")
    return DamagedTableError(
        f"{path} is not a readable Parquet file ({reason}). Next step: move it away ({aside(path)}); "
        "what else is in the directory is intact, and the same command goes on without it."
    )


def version_of(table: pa.Table) -> int:
    """Read the version of the schema that a table was written under; 0 where it does not say."""
    found = (table.schema.metadata or {}).get(_VERSION_KEY, b"").decode()
    return int(found) if found.isdecimal() else 0


def keys_of(table: pa.Table) -> list[tuple[str, str]]:
    """Return the checkpoint and the layer of each row."""
    return list(zip(table.column("checkpoint").to_pylist(), table.column("layer").to_pylist(), strict=True))


def _check(found: pa.Schema, path: Path, expected: pa.Schema, may_lack: Collection[str]) -> None:
    metadata, wanted = found.metadata or {}, expected.metadata
    kind, wanted_kind = metadata.get(_KIND_KEY, b"").decode(), wanted[_KIND_KEY].decode()
    version = metadata.get(_VERSION_KEY, b"").decode()
    if not version:
        raise SchemaError(
            f"{path} was not written by layerprobe: its metadata has no '{_VERSION_KEY.decode()}'. "
            f"Next step: give a file of {wanted_kind}s, such as <run>/probes/results.parquet."
        )
    if kind != wanted_kind:
        raise SchemaError(
            f"{path} holds rows of {kind}; expected {wanted_kind}. Next step: give the file of {wanted_kind}s."
        )
    if version != str(SCHEMA_VERSION):
        older = version.isdecimal() and int(version) < SCHEMA_VERSION
        step = "probe its checkpoints again" if older else "upgrade layerprobe"
        raise SchemaError(
            f"{path} was written under schema {version}; this layerprobe reads schema {SCHEMA_VERSION}. "
            f"Next step: {step}, or read the file with the version that wrote it."
        )
    present = pa.schema([c for c in expected if c.name in found.names or c.name not in may_lack])
    if not found.equals(present):
        differing = sorted(set(found.names) ^ set(present.names)) or [
            name for name in present.names if found.field(name) != expected.field(name)
        ]
        raise SchemaError(
            f"{path} says schema {version} but its columns differ: {', '.join(differing) or 'order'}. "
            f"Next step: probe its checkpoints again."
        )


RESULTS = schema(ProbeRecord)
PATH = schema(PathRecord)
_KINDS = {
    "checkpoint": str, "step": int, "depth": int, "layer": str, "seed": int, "samples": str,
}  # fmt: skip
CORRECT = stamp(
    pa.schema([*((name, _ARROW[kind]) for name, kind in _KINDS.items()), ("correct", pa.list_(pa.bool_()))]), "Correct"
)
METRICS = schema(MetricRecord)
ANSWERS = stamp(pa.schema([*CORRECT, pa.field("test_set", pa.string())]), "Answers")
ROWS = {"record": RESULTS, "path": PATH, "correct": CORRECT, "metrics": METRICS, "answers": ANSWERS}
MERGED = ("path", "correct", "metrics", "answers")
"""Tables that grow too large to be written again after each layer."""

OPTIONAL = ("metrics", "answers")
"""Tables of which there are files where there are rows; earlier versions did not know them."""
