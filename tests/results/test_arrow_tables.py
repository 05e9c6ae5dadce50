import dataclasses

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers import made_results as made
from layerprobe.results.arrow_tables import SCHEMA_VERSION, SchemaError, schema, to_frame, to_table
from layerprobe.types import PathRecord, ProbeRecord

KINDS = [(ProbeRecord, [made.record(), made.failed()]), (PathRecord, list(made.path(made.record())))]


@pytest.mark.parametrize(("kind", "records"), KINDS)
def test_frame_has_the_fields_as_typed_columns_also_when_empty(kind, records):
    full, empty = to_frame(records, kind), to_frame([], kind)
    assert list(full.columns) == [field.name for field in dataclasses.fields(kind)]
    assert full.dtypes.to_dict() == empty.dtypes.to_dict()
    for field in dataclasses.fields(kind):
        matches = {
            "int": pd.api.types.is_int64_dtype,
            "float": pd.api.types.is_float_dtype,
            "bool": pd.api.types.is_bool_dtype,
            "str": pd.api.types.is_string_dtype,
            "LayerName": pd.api.types.is_string_dtype,
        }[field.type]
        assert matches(full[field.name]), field.name
    assert [repr(kind(**row)) for row in full.to_dict("records")] == [repr(one) for one in records]


@pytest.mark.parametrize(("kind", "records"), KINDS)
def test_file_round_trip(tmp_path, kind, records):
    file = tmp_path / "rows.parquet"
    pq.write_table(to_table(records, kind), file)
    assert pq.read_schema(file).metadata[b"layerprobe.schema"] == str(SCHEMA_VERSION).encode()
    pd.testing.assert_frame_equal(made.read_frame(file, kind), to_frame(records, kind))


def rewritten(file, **metadata):
    table = to_table([made.record()], ProbeRecord)
    changes = {f"layerprobe.{key}".encode(): value.encode() for key, value in metadata.items()}
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | changes), file)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"schema": "0"}, "schema 0.*reads schema 7.*probe its checkpoints again"),
        ({"schema": "8"}, "schema 8.*reads schema 7.*upgrade layerprobe"),
        ({"record": "PathRecord"}, "rows of PathRecord; expected ProbeRecord"),
    ],
)
def test_another_schema_is_refused_with_the_next_step(tmp_path, metadata, told):
    file = tmp_path / "results.parquet"
    rewritten(file, **metadata)
    with pytest.raises(SchemaError, match=told) as error:
        made.read_frame(file)
    assert str(file) in str(error.value)


def test_foreign_files_are_refused(tmp_path):
    file = tmp_path / "results.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(file)
    with pytest.raises(SchemaError, match="not written by layerprobe"):
        made.read_frame(file)
    file.write_bytes(b"PAR1 half a file")
    with pytest.raises(SchemaError, match="not a readable Parquet file"):
        made.read_frame(file)
    with pytest.raises(FileNotFoundError):
        made.read_frame(tmp_path / "none.parquet")


def test_columns_that_differ_are_named(tmp_path):
    file = tmp_path / "results.parquet"
    columns = schema(ProbeRecord)
    fewer = pa.schema([field for field in columns if field.name != "gap"], metadata=columns.metadata)
    pq.write_table(to_table([made.record()], ProbeRecord).select(fewer.names).cast(fewer), file)
    with pytest.raises(SchemaError, match="columns differ: gap"):
        made.read_frame(file)
