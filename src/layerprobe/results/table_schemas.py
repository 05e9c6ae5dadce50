"""Schemas of a run's tables: its records, paths and metrics, and which test samples each selected head gets right."""

from __future__ import annotations

import pyarrow as pa

from layerprobe.results.arrow_tables import schema, stamp
from layerprobe.types import MetricRecord, PathRecord, ProbeRecord

RESULTS = schema(ProbeRecord)
PATH = schema(PathRecord)
CORRECT = stamp(
    pa.schema(
        [
            pa.field("checkpoint", pa.string()),
            pa.field("step", pa.int64()),
            pa.field("depth", pa.int64()),
            pa.field("layer", pa.string()),
            pa.field("seed", pa.int64()),
            pa.field("samples", pa.string()),
            pa.field("correct", pa.list_(pa.bool_())),
        ]
    ),
    "Correct",
)
METRICS = schema(MetricRecord)
ANSWERS = stamp(pa.schema([*CORRECT, pa.field("test_set", pa.string())]), "Answers")
ROWS = {"record": RESULTS, "path": PATH, "correct": CORRECT, "metrics": METRICS, "answers": ANSWERS}
MERGED = ("path", "correct", "metrics", "answers")
"""Tables that grow too large to be written again after each layer."""

LATER = ("metrics", "answers")
"""Tables that earlier versions did not know; their files are written where there are rows."""
