"""Merging the results of several jobs, as one run would have written them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from layerprobe.files.parquet import write_parquet
from layerprobe.results.arrow_tables import MERGED, OPTIONAL, RESULTS, ROWS, from_table, keys_of, read_table
from layerprobe.results.store import LAYER_FILES, in_order, like, write_results
from layerprobe.types import ProbeRecord


def merge_results(sources: Sequence[Path], target: Path) -> int:
    """Put together the results of jobs that have each probed a part, and return their number.

    Args:
        sources: Folders of results, each with `results.parquet`; where two hold the same checkpoint and layer, the
            later one's is taken.
        target: The folder to write: `results.parquet`, `results.csv`, the files of `MERGED`, `heads/`, `scores/` and
            `references/`; what an earlier merge left there goes.

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
    records: dict[tuple[str, str], ProbeRecord] = {}
    for i, source in enumerate(sources):
        for record in from_table(read_table(source / "results.parquet", RESULTS)):
            key = record.checkpoint, record.layer
            owner[key], records[key] = i, record
    results = in_order(records)
    before = {file for files in LAYER_FILES for file in (target / files.kind).glob("*/*") if file.is_file()}
    for (checkpoint, layer), i in owner.items():
        for of_kind in LAYER_FILES:
            for file in of_kind.find(sources[i], checkpoint, layer):
                (to := of_kind.folder(target, checkpoint)).mkdir(parents=True, exist_ok=True)
                before.discard(Path(shutil.copy2(file, to)))
    for file in before:  # of an earlier merge, and no longer in any job
        file.unlink()
    for name in MERGED:
        files = [source / f"{name}.parquet" for source in sources]
        if name in OPTIONAL and not any(file.exists() for file in files):
            (target / f"{name}.parquet").unlink(missing_ok=True)
            continue
        read = (
            ROWS[name].empty_table() if name in OPTIONAL and not f.exists() else read_table(f, ROWS[name])
            for f in files
        )
        whole = pa.concat_tables(_own(table, i, owner) for i, table in enumerate(read))
        write_parquet(like(results, whole), target / f"{name}.parquet")
    write_results(target, results)
    return len(results)


def _own(table: pa.Table, number: int, owner: dict[tuple[str, str], int]) -> pa.Table:
    return table.filter(pa.array([owner.get(key) == number for key in keys_of(table)], pa.bool_()))
