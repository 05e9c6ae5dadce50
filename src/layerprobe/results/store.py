"""The store of a run's results: durable layer by layer, readable at every moment, continued when opened again.

    results.parquet, results.csv        one row for each checkpoint and layer
    path.parquet                        every swept head
    correct.parquet                     for each checkpoint and layer, which test samples the selected head gets right
    metrics.parquet                     what else was measured, where there is any
    answers.parquet                     of test sets with names, what `correct.parquet` says of the primary one, of each
    heads/<checkpoint>/<depth>_<layer>.safetensors
    scores/<checkpoint>/<depth>_<layer>.parquet  the selected head's scores of every test sample, where they are kept
    references/<checkpoint>/<depth>_<layer>.safetensors  what analyses have fitted that predicts, such as `mlp`
    parts/<checkpoint>/<layer>.parquet  one layer's result as it came in, until `merge`

`results.parquet` is written again after each layer; the paths and the per-sample columns, which grow to a hundred
times its size, only by `merge`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
from safetensors import SafetensorError

from layerprobe.files.atomic import atomic, remove_stray
from layerprobe.files.parquet import write_parquet
from layerprobe.files.safe_names import safe_name
from layerprobe.results.arrow_tables import (
    CORRECT,
    MERGED,
    OPTIONAL,
    RESULTS,
    ROWS,
    DamagedTableError,
    SchemaError,
    check_table,
    from_table,
    keys_of,
    read_table,
    to_frame,
    to_table,
)
from layerprobe.results.heads import HEADS, find_head, read_arrays, write_head
from layerprobe.results.layer_parts import read_parts, to_part
from layerprobe.results.reference_predictors import REFERENCES, write_references
from layerprobe.results.scores import SCORES, write_scores
from layerprobe.types import LayerName, LayerResult, ProbeRecord

log = logging.getLogger("layerprobe")

LAYER_FILES = (HEADS, SCORES, REFERENCES)
"""What each layer has a file of its own of."""


class StoreError(OSError):
    """The results cannot be written where they should go."""


class ProbeStore:
    """Keeps the results of one run in a folder.

    As a context manager it merges at the end of the block, also after an error. One process writes at a time; any
    number may read.

    Nothing is written before the first `add` or `prepare`.

    Raises:
        SchemaError: If the folder holds results of another schema.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._prepared = False
        self._records: dict[tuple[str, LayerName], ProbeRecord] = {}
        # A process killed between the part and the results has left a row that only the part has.
        for record in self._read_results() + from_table(read_parts(self._parts())["record"]):
            self._records[record.checkpoint, record.layer] = record
        if lost := set(self._damaged_parts()):
            self._records = {key: r for key, r in self._records.items() if self._part(r) not in lost}

    def __enter__(self) -> ProbeStore:
        """Return the store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Merge what was added."""
        self.merge()

    def prepare(self) -> None:
        """Make the folder, see that it can be written, and clear what a killed process left half-written.

        Call it before a long training, so that a wrong folder is known at once; `add` calls it otherwise.

        Raises:
            StoreError: If the folder cannot be made or written.
            DamagedTableError: If a file of `MERGED` is damaged, which nothing else holds.
        """
        if self._prepared:
            return
        with self._explained():
            self.directory.mkdir(parents=True, exist_ok=True)
            remove_stray(self.directory)
            self._mend()
            trial = self.directory / ".writable"
            with atomic(trial) as temporary:
                temporary.touch()
            trial.unlink()
        self._prepared = True

    def add(self, result: LayerResult) -> None:
        """Keep one layer's result; when this returns it survives a kill. The same checkpoint and layer is replaced.

        A failed layer may have no head and no `correct`.

        Raises:
            StoreError: If it cannot be written; what was added before stays.
        """
        self.prepare()
        record = result.record
        with self._explained():
            write_head(self.directory, result)
            write_scores(self.directory, result)
            write_references(self.directory, result)
            write_parquet(to_part(result), self._part(record))
            self._records[record.checkpoint, record.layer] = record
            self.write_results()

    def merge(self) -> None:
        """Move the parts into the files of `MERGED`; call it after each checkpoint and at the end.

        Raises:
            StoreError: If it cannot be written; the parts then stay.
        """
        files = self._parts()
        if not files:
            return
        self.prepare()
        with self._explained():
            parts = read_parts(files)
            for name in MERGED:
                table, file = self._combined(name, parts), self.directory / f"{name}.parquet"
                if len(table) or file.exists() or name not in OPTIONAL:
                    write_parquet(table, file)
            self.write_results()
            for file in files:
                file.unlink()
            _remove_empty(self.directory / "parts")

    def forget(self, checkpoint: str) -> None:
        """Remove every result of a checkpoint.

        Raises:
            StoreError: If it cannot be written.
        """
        self.merge()
        self._records = {key: record for key, record in self._records.items() if key[0] != checkpoint}
        with self._explained():
            for name in MERGED:
                file = self.directory / f"{name}.parquet"
                if file.exists():
                    table = read_table(file, ROWS[name])
                    keep = pa.array([key[0] != checkpoint for key in keys_of(table)], pa.bool_())
                    write_parquet(table.filter(keep), file)
            self.write_results()
            for files in LAYER_FILES:
                shutil.rmtree(files.folder(self.directory, checkpoint), ignore_errors=True)

    def done(self, checkpoint: str) -> set[LayerName]:
        """Tell which layers of a checkpoint have a result, failed ones included."""
        return {layer for name, layer in self._records if name == checkpoint}

    def results(self) -> pd.DataFrame:
        """Return one row for each checkpoint and layer, in the order of training, then of depth."""
        return to_frame(self._ordered())

    def path(self) -> pd.DataFrame:
        """Return one row for each swept head, in the order of `results`."""
        return self._frame("path")

    def correct(self) -> pd.DataFrame:
        """Return which test samples each selected head gets right, in the order of `results`.

        Returns:
            Columns checkpoint, step, depth, layer, seed, `samples` (the fingerprint of the test samples in their order,
            empty where it is not known) and `correct`: a bool array (n) in that order, empty for a failed layer.
        """
        return self._frame("correct")

    def answers(self) -> pd.DataFrame:
        """Return which samples of each test set each selected head gets right, the primary one's first.

        Returns:
            The columns of `correct` and `test_set`; no row where there is one test set without a name of its own.
        """
        return self._frame("answers")

    def metrics(self) -> pd.DataFrame:
        """Return what else was measured, one row for each number, in the order of `results`."""
        return self._frame("metrics")

    def head(self, checkpoint: str, layer: LayerName) -> dict[str, np.ndarray]:
        """Load the selected head of a layer.

        Returns:
            The arrays as they were added: `weight` (c d), `bias` (c), `mean` (d), `scale` (d).

        Raises:
            KeyError: If there is no such result, or the layer failed and has no head.
        """
        return read_arrays(self._head_of(checkpoint, layer))

    @property
    def _results(self) -> Path:
        return self.directory / "results.parquet"

    def _read_results(self) -> list[ProbeRecord]:
        """Read the rows of `results.parquet`, or of `results.csv`, which are the same, where the former is damaged."""
        if not self._results.exists():
            return []
        try:
            return from_table(read_table(self._results, RESULTS))
        except DamagedTableError:
            file = self.directory / "results.csv"
            types = pc.ConvertOptions(
                column_types={column.name: column.type for column in RESULTS},
                include_columns=RESULTS.names,
                null_values=[],
                strings_can_be_null=False,
            )
            table, merged = None, CORRECT.empty_table()
            with suppress(pa.ArrowException, OSError):
                table = pc.read_csv(file, convert_options=types)
            with suppress(FileNotFoundError, SchemaError):
                merged = read_table(self.directory / "correct.parquet", CORRECT)
            if table is None or not set(keys_of(merged)) <= set(keys_of(table)):
                raise
            log.warning("%s is damaged; its %d rows are read from %s.", self._results, len(table), file.name)
            return from_table(table)

    def _mend(self) -> None:
        """Write a damaged `results.parquet` anew, and remove damaged parts, whose layers are probed again."""
        for name in MERGED:
            with suppress(FileNotFoundError):
                check_table(self.directory / f"{name}.parquet")
        restore_results(self.directory)
        for part in self._damaged_parts():
            log.warning("%s is damaged; its layer is probed again.", part)
            part.unlink()

    def _part(self, record: ProbeRecord) -> Path:
        return self.directory / "parts" / safe_name(record.checkpoint) / f"{safe_name(record.layer)}.parquet"

    def _parts(self) -> list[Path]:
        damaged = set(self._damaged_parts())
        return [part for part in self._all_parts() if part not in damaged]

    def _all_parts(self) -> list[Path]:
        return sorted((self.directory / "parts").glob("*/[!.]*.parquet"))

    def _damaged_parts(self) -> Iterator[Path]:
        for part in self._all_parts():
            try:
                check_table(part)
            except DamagedTableError:
                yield part

    def _head_of(self, checkpoint: str, layer: LayerName) -> Path:
        try:
            return find_head(self.directory, checkpoint, layer)
        except KeyError:
            kept = ", ".join(sorted(self.done(checkpoint))) or "none at this checkpoint"
            raise KeyError(
                f"no head of layer '{layer}' at checkpoint '{checkpoint}' in {self.directory}; layers probed: {kept}. "
                f"Next step: take one of these; a failed layer has no head."
            ) from None

    def _ordered(self) -> list[ProbeRecord]:
        return in_order(self._records)

    def _frame(self, name: str) -> pd.DataFrame:
        return self._combined(name, read_parts(self._parts())).to_pandas()

    def _combined(self, name: str, parts: Mapping[str, pa.Table]) -> pa.Table:
        """Combine rows of one kind, merged and in parts; where both have a layer, the part is the newer one."""
        file, columns = self.directory / f"{name}.parquet", ROWS[name]
        table = parts[name]
        if file.exists():
            newer = set(keys_of(parts["record"]))
            merged = read_table(file, columns)
            keep = [key not in newer for key in keys_of(merged)]
            table = pa.concat_tables([merged.filter(pa.array(keep, pa.bool_())), table])
        return like(self._ordered(), table)

    def write_results(self) -> None:
        """Write the selected heads."""
        write_results(self.directory, self._ordered())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say where and what to do, in place of a bare error of the system."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise StoreError(
                f"the probes' results cannot be written to {self.directory.absolute()}: "
                f"{getattr(error, 'strerror', None) or error}. "
                f"Next step: choose a directory that you may write to and that has space left (of a run, "
                f"hydra.run.dir=DIR on the command line; in Python, another argument of `save`, or `directory` of the "
                f"callback); what was written before is intact."
            ) from error


def in_order(records: Mapping[tuple[str, LayerName], ProbeRecord]) -> list[ProbeRecord]:
    """Sort records by training, then by depth; checkpoints of one step stay in the order in which they came."""
    first_seen: dict[str, int] = {}
    for checkpoint, _ in records:
        first_seen.setdefault(checkpoint, len(first_seen))
    return sorted(records.values(), key=lambda r: (r.step, first_seen[r.checkpoint], r.depth))


def like(records: Iterable[ProbeRecord], table: pa.Table) -> pa.Table:
    """Sort the rows of a table by the records of their layers."""
    rank = {(record.checkpoint, record.layer): i for i, record in enumerate(records)}
    order = np.argsort([rank.get(key, len(rank)) for key in keys_of(table)], kind="stable")
    return table.take(pa.array(order, pa.int64()))


def write_results(directory: Path, records: Iterable[ProbeRecord]) -> None:
    """Write records, as `results.parquet` and `results.csv`."""
    table = to_table(records, ProbeRecord)
    write_parquet(table, directory / "results.parquet")
    with atomic(directory / "results.csv") as temporary:
        pc.write_csv(table, temporary)


def restore_results(directory: Path) -> None:
    """Write a damaged `results.parquet` anew from `results.csv`; call it where nobody else writes.

    Raises:
        DamagedTableError: Where both are damaged.
    """
    try:
        check_table(directory / "results.parquet")
    except FileNotFoundError:
        return
    except DamagedTableError:
        ProbeStore(directory).write_results()


def _remove_empty(folder: Path) -> None:
    """Remove a folder and those in it; one that holds a file stays."""
    for inner in (*folder.iterdir(), folder):
        with suppress(OSError):
            inner.rmdir()
