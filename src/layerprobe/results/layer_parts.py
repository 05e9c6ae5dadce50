"""Parts: one layer's result as one file, so that its record, path and per-sample column become visible together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from layerprobe.results.arrow_tables import ANSWERS, CORRECT, OPTIONAL, ROWS, read_table, stamp, to_table
from layerprobe.types import Answers, LayerResult, MetricRecord, PathRecord, ProbeRecord

_PART = stamp(
    pa.schema([pa.field(name, pa.list_(pa.struct(list(columns)))) for name, columns in ROWS.items()]), "LayerResult"
)


def to_part(result: LayerResult) -> pa.Table:
    """Lay out one layer's result as one row, with a list for each of `ROWS`."""
    record, answers = result.record, result.answers
    several = answers if len(answers) > 1 or result.test_set != "test" else {}
    rows = {
        "record": to_table([record], ProbeRecord),
        "path": to_table(result.path, PathRecord),
        "correct": _table(record, {result.test_set: answers[result.test_set]}).select(CORRECT.names).cast(CORRECT),
        "metrics": to_table(result.metrics, MetricRecord),
        "answers": _table(record, several),
    }
    return pa.table([_folded(name, table) for name, table in rows.items()], schema=_PART)


def _table(record: ProbeRecord, answers: Mapping[str, Answers]) -> pa.Table:
    n = len(answers)
    columns = {
        "checkpoint": [record.checkpoint] * n,
        "step": [record.step] * n,
        "depth": [record.depth] * n,
        "layer": [record.layer] * n,
        "seed": [record.seed] * n,
        "samples": [each.samples for each in answers.values()],
        "correct": [each.correct for each in answers.values()],
        "test_set": list(answers),
    }
    return pa.table(columns, schema=ANSWERS)


def read_parts(files: Iterable[Path]) -> dict[str, pa.Table]:
    """Read the rows of many parts: for each of `ROWS`, the parts' rows one after another.

    Raises:
        SchemaError: If a file is not a part, or was written under another schema.
    """
    parts = pa.concat_tables([_PART.empty_table(), *map(_read_part, files)]).combine_chunks()
    return {name: unfolded(parts.column(name)).cast(columns) for name, columns in ROWS.items()}


def _read_part(file: Path) -> pa.Table:
    part = read_table(file, _PART, may_lack=OPTIONAL)
    for name in set(_PART.names) - set(part.column_names):
        part = part.append_column(_PART.field(name), pa.array([[]] * len(part), _PART.field(name).type))
    return part.select(_PART.names)


def _folded(name: str, table: pa.Table) -> pa.ListArray:
    arrays = [column.combine_chunks() for column in table.columns]
    values = pa.StructArray.from_arrays(arrays, fields=list(table.schema))
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values, type=_PART.field(name).type)


def unfolded(column: pa.ChunkedArray) -> pa.Table:
    """Return the rows that the lists of a part's column hold, one after another."""
    batches = [pa.RecordBatch.from_struct_array(chunk.flatten()) for chunk in column.chunks]
    return pa.Table.from_batches(batches, pa.schema(list(column.type.value_type)))
