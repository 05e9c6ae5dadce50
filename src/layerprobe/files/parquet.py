"""Parquet files that another process may put in place anew while they are read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from layerprobe.files.atomic import atomic
from layerprobe.files.errors import DamagedFileError
from layerprobe.formatting import first_line


def read_parquet(file: Path) -> pa.Table:
    """Read a Parquet file as it is at one moment.

    `pyarrow.parquet.read_table` opens a path twice, once for the schema and once for the rows, which may then be of two
    files; it also takes folders such as `depth=3` for columns.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it is no whole Parquet file, be it for a text that is not UTF-8.
    """
    try:
        with pq.ParquetFile(file) as opened:
            table = opened.read()
        table.validate(full=True)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DamagedFileError(file, f"not a readable Parquet file: {first_line(error)}") from error
    return table


def write_parquet(table: pa.Table, file: Path) -> None:
    """Write a Parquet file, whole or not at all; missing folders are made."""
    with atomic(file) as temporary:
        pq.write_table(table, temporary)
