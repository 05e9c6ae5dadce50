"""The selected heads' scores on disk, one file a layer: `scores/<checkpoint>/<depth>_<layer>.parquet`.

A row is a sample of a test set: `test_set`, `sample` (its id), `target` and `score_<class>`, or with several labels or
values `target_<i>` and `score_<i>`. Parquet, since ids may be text and every tool for tables reads it; a file is
written once, when its layer is done, and never again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from layerprobe.atomic import atomic
from layerprobe.results.record_schema import DamagedTableError
from layerprobe.results.safe_names import files_of_layer, layer_file_name, safe_name
from layerprobe.types import LayerName, LayerResult, SampleScores

SCORES = "scores"
_SCORE, _TARGET = "score_", "target"


def score_folder(directory: Path, checkpoint: str) -> Path:
    """The folder of a checkpoint's scores.

    Args:
        directory: The folder of the results.
        checkpoint: Name of the checkpoint.
    """
    return directory / SCORES / safe_name(checkpoint)


def write_scores(directory: Path, result: LayerResult) -> None:
    """Write the scores of a layer, atomically, in place of earlier ones.

    Args:
        directory: The folder of the results.
        result: The layer's result; where it has none, earlier ones are removed.

    Raises:
        OSError: If they cannot be written.
    """
    record, folder = result.record, score_folder(directory, result.record.checkpoint)
    stale = files_of_layer(folder, record.layer, ".parquet")
    if result.scores:
        file = folder / layer_file_name(record.depth, record.layer, ".parquet")
        tables = [_table(name, part, _outputs(result, part)) for name, part in result.scores.items()]
        table = pa.concat_tables(tables, promote_options="permissive")
        floats = [name for name in table.column_names if name.startswith(_SCORE)]
        words = [name for name in ("test_set", "sample") if pa.types.is_string(table.schema.field(name).type)]
        with atomic(file) as temporary:
            pq.write_table(table, temporary, compression="zstd", use_dictionary=words, use_byte_stream_split=floats)
        stale = [old for old in stale if old != file]
    for old in stale:
        old.unlink()


def read_scores(directory: Path, checkpoint: str, layer: LayerName) -> dict[str, SampleScores]:
    """Read the scores of a layer.

    Args:
        directory: The folder of the results.
        checkpoint: Name of the checkpoint.
        layer: Name of the layer.

    Returns:
        The scores by test set, the primary one first; empty where none were kept.

    Raises:
        DamagedTableError: Where the file is no whole Parquet file.
    """
    for file in files_of_layer(score_folder(directory, checkpoint), layer, ".parquet"):
        try:
            frame = pq.read_table(file, partitioning=None).to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise DamagedTableError(
                f"{file} is not a readable Parquet file ({str(error).splitlines()[0]}). Next step: move it away, and "
                "probe its checkpoint again."
            ) from error
        targets = [name for name in frame if name == _TARGET or name.startswith(f"{_TARGET}_")]
        scores = [name for name in frame if name.startswith(_SCORE)]
        found = {}
        for name, rows in frame.groupby("test_set", sort=False):
            ids, values = rows["sample"].to_numpy(), rows[targets].to_numpy()
            ids = ids.astype(str) if ids.dtype.kind not in "iu" else ids
            found[str(name)] = SampleScores(
                ids, values[:, 0] if targets == [_TARGET] else values, rows[scores].to_numpy(dtype=np.float32)
            )
        return found
    return {}


@dataclass(frozen=True)
class ScoreFile(Mapping[str, SampleScores]):
    """The scores of a layer on disk, read when they are first asked for; empty where none were kept.

    Attributes:
        directory: The folder of the results.
        checkpoint: Name of the checkpoint.
        layer: Name of the layer.
    """

    directory: Path
    checkpoint: str
    layer: LayerName

    @cached_property
    def _scores(self) -> dict[str, SampleScores]:
        return read_scores(self.directory, self.checkpoint, self.layer)

    def __getitem__(self, test_set: str) -> SampleScores:
        return self._scores[test_set]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def __bool__(self) -> bool:
        return bool(files_of_layer(score_folder(self.directory, self.checkpoint), self.layer, ".parquet"))


def score_frame(scores: Mapping[str, SampleScores], classes: np.ndarray, words: Sequence[str] = ()) -> pd.DataFrame:
    """Lay out the scores of a layer.

    Args:
        scores: The scores, by test set.
        classes: The class index, or the number of the label or value, of each score.
        words: What the classes are called, by class index; empty where they are numbers.

    Returns:
        One row for each sample, by test set and id, with what is true (`target`), what the head answers (`predicted`)
        and the score of each class (`score_<class>`); with several labels or values one of each, `target_0`, ….
    """
    named = [words[one] for one in classes] if len(words) else classes.tolist()
    frames = []
    for name, part in scores.items():
        columns: dict[str, np.ndarray] = {}
        if part.targets.ndim == 1:
            answers = classes[part.scores.argmax(1)]
            both = {_TARGET: part.targets, "predicted": answers}
            columns = {key: np.array(words)[values] if len(words) else values for key, values in both.items()}
        else:
            columns = {f"{_TARGET}_{i}": values for i, values in enumerate(part.targets.T)}
            if part.targets.dtype.kind in "iu":
                columns |= {f"predicted_{i}": (values > 0).astype(int) for i, values in enumerate(part.scores.T)}
        columns |= {f"{_SCORE}{one}": values for one, values in zip(named, part.scores.T, strict=True)}
        index = pd.MultiIndex.from_product([[name], part.ids], names=["test_set", "sample"])
        frames.append(pd.DataFrame(columns, index=index))
    return pd.concat(frames)


def _outputs(result: LayerResult, part: SampleScores) -> np.ndarray:
    known = result.head.get("classes")
    return np.arange(part.scores.shape[1]) if known is None else known


def _table(test_set: str, part: SampleScores, outputs: np.ndarray) -> pa.Table:
    n, targets = len(part.ids), part.targets
    columns = {"test_set": pa.array([test_set] * n, pa.string()), "sample": pa.array(part.ids.tolist())}
    several = {_TARGET: targets} if targets.ndim == 1 else {f"{_TARGET}_{i}": t for i, t in enumerate(targets.T)}
    columns |= {name: pa.array(np.ascontiguousarray(values)) for name, values in several.items()}
    scores = zip(outputs.tolist(), part.scores.T, strict=True)
    columns |= {f"{_SCORE}{one}": pa.array(np.ascontiguousarray(values), pa.float32()) for one, values in scores}
    return pa.table(columns)
