"""Merging the results of several jobs, as one run would have written them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from layerprobe.files.atomic import atomic
from layerprobe.results.arrow_tables import LATER, MERGED, RESULTS, ROWS, keys_of, read_table
from layerprobe.results.heads import HEADS
from layerprobe.results.reference_predictors import REFERENCES
from layerprobe.results.scores import SCORES

_FILES = (HEADS, SCORES, REFERENCES)
"""What each layer has a file of its own of."""


def merge_results(sources: Sequence[Path], target: Path) -> int:
    """Put together the results of jobs that have each probed a part.

    Args:
        sources: Folders of results, each with `results.parquet`; where two hold the same checkpoint and layer, the
            later one's is taken.
        target: The folder to write: `results.parquet`, `results.csv`, the files of `MERGED`, `heads/`, `scores/` and
            `references/`; what an earlier merge left there goes.

    Returns:
        The number of results.

    Raises:
        FileNotFoundError: Where a folder holds no results.
        SchemaError: Where one was written under another schema.
    """
    for source in sources:
        if not (source / "results.parquet").exists():
            raise FileNotFoundError(
                f"There are no results in {source}. "
                "Next step: let that job finish (sweep.py continue=DIR), and merge then."
            )
    owner: dict[tuple[str, str], int] = {}
    records = [read_table(source / "results.parquet", RESULTS) for source in sources]
    for i, table in enumerate(records):
        owner.update(dict.fromkeys(keys_of(table), i))
    results = pa.concat_tables(_own(table, i, owner) for i, table in enumerate(records))
    first_seen: dict[str, int] = {}
    for checkpoint, _ in owner:
        first_seen.setdefault(checkpoint, len(first_seen))
    columns = (results.column(name).to_pylist() for name in ("step", "checkpoint", "depth"))
    order = sorted(
        (step, first_seen[checkpoint], depth, i)
        for i, (step, checkpoint, depth) in enumerate(zip(*columns, strict=True))
    )
    results = results.take(pa.array([i for *_, i in order], pa.int64()))
    rank = {key: i for i, key in enumerate(keys_of(results))}
    before = {file for files in _FILES for file in (target / files.kind).glob("*/*") if file.is_file()}
    for (checkpoint, layer), i in owner.items():
        for of_kind in _FILES:
            for file in of_kind.find(sources[i], checkpoint, layer):
                (to := of_kind.folder(target, checkpoint)).mkdir(parents=True, exist_ok=True)
                before.discard(Path(shutil.copy2(file, to)))
    for file in before:  # of an earlier merge, and no longer in any job
        file.unlink()
    for name in MERGED:
        files = [source / f"{name}.parquet" for source in sources]
        if name in LATER and not any(file.exists() for file in files):
            (target / f"{name}.parquet").unlink(missing_ok=True)
            continue
        read = (
            ROWS[name].empty_table() if name in LATER and not f.exists() else read_table(f, ROWS[name]) for f in files
        )
        whole = pa.concat_tables(_own(table, i, owner) for i, table in enumerate(read))
        places = np.argsort([rank[key] for key in keys_of(whole)], kind="stable")
        with atomic(target / f"{name}.parquet") as temporary:
            pq.write_table(whole.take(pa.array(places, pa.int64())), temporary)
    with atomic(target / "results.parquet") as temporary:
        pq.write_table(results, temporary)
    with atomic(target / "results.csv") as temporary:
        pc.write_csv(results, temporary)
    return len(results)


def _own(table: pa.Table, number: int, owner: dict[tuple[str, str], int]) -> pa.Table:
    return table.filter(pa.array([owner.get(key) == number for key in keys_of(table)], pa.bool_()))
