"""The selected heads' scores on disk, one file a layer: `scores/<checkpoint>/<depth>_<layer>.parquet`.

A row is a sample of a test set: `test_set`, `sample` (its id), `target` and `score_<class>`, or with several labels or
values `target_<i>` and `score_<i>`. Parquet, since ids may be text and every tool for tables reads it; a file is
written once, when its layer is done, and never again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from layerprobe.files.errors import DamagedFileError
from layerprobe.files.layer_files import LayerFiles
from layerprobe.files.parquet import read_parquet
from layerprobe.results.arrow_tables import DamagedTableError
from layerprobe.results.heads import outputs_of
from layerprobe.types import LayerName, LayerResult, SampleScores

SCORES = LayerFiles("scores", ".parquet")
_SCORE, _TARGET = "score_", "target"


def write_scores(directory: Path, result: LayerResult) -> None:
    """Write the scores of a layer, atomically, in place of earlier ones, which are removed where it has none."""
    SCORES.put(directory, result.record, partial(_write, result) if result.scores else None)


def _write(result: LayerResult, file: Path) -> None:
    outputs = outputs_of(result.head)
    kind = str if any(part.ids.dtype.kind == "U" for part in result.scores.values()) else np.int64
    tables = [_table(name, part, part.ids.astype(kind), outputs) for name, part in result.scores.items()]
    table = pa.concat_tables(tables, promote_options="permissive")
    floats = [name for name in table.column_names if name.startswith(_SCORE)]
    words = [name for name in ("test_set", "sample") if pa.types.is_string(table.schema.field(name).type)]
    pq.write_table(table, file, compression="zstd", use_dictionary=words, use_byte_stream_split=floats)


def read_scores(directory: Path, checkpoint: str, layer: LayerName) -> dict[str, SampleScores]:
    """Read the scores of a layer by test set, the primary one first; empty where none were kept.

    Raises:
        DamagedTableError: Where the file is no whole Parquet file.
    """
    for file in SCORES.find(directory, checkpoint, layer):
        try:
            frame = read_parquet(file).to_pandas()
        except DamagedFileError as error:
            raise DamagedTableError(f"{error} Next step: move it away, and probe its checkpoint again.") from error
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


def score_frame(scores: Mapping[str, SampleScores], classes: np.ndarray, words: Sequence[str] = ()) -> pd.DataFrame:
    """Lay out the scores of a layer.

    Args:
        scores: The scores, by test set.
        classes: The class index, or the number of the label or value, of each score.
        words: What the classes are called, by class index; empty where they are numbers. Where several have one name,
            each gets its index, as in `cat (0)` and `cat (3)`.

    Returns:
        One row for each sample, by test set and id, with what is true (`target`), what the head answers (`predicted`)
        and the score of each class (`score_<class>`); with several labels or values one of each, `target_0`, ….
    """
    words = _told_apart(words)
    named = [words[one] for one in classes] if words else classes.tolist()
    frames = []
    for name, part in scores.items():
        columns: dict[str, np.ndarray] = {}
        if part.targets.ndim == 1:
            answers = classes[part.scores.argmax(1)]
            both = {_TARGET: part.targets, "predicted": answers}
            columns = {key: np.array(words)[values] if words else values for key, values in both.items()}
        else:
            columns = {f"{_TARGET}_{i}": values for i, values in enumerate(part.targets.T)}
            if part.targets.dtype.kind in "iu":
                columns |= {f"predicted_{i}": (values > 0).astype(int) for i, values in enumerate(part.scores.T)}
        columns |= {f"{_SCORE}{one}": values for one, values in zip(named, part.scores.T, strict=True)}
        index = pd.MultiIndex.from_product([[name], part.ids], names=["test_set", "sample"])
        frames.append(pd.DataFrame(columns, index=index))
    return pd.concat(frames)


def _told_apart(words: Sequence[str]) -> list[str]:
    names = list(words)
    while repeated := {name for name, n in Counter(names).items() if n > 1}:
        names = [f"{name} ({i})".lstrip() if name in repeated else name for i, name in enumerate(names)]
    return names


def _table(test_set: str, part: SampleScores, ids: np.ndarray, outputs: np.ndarray) -> pa.Table:
    n, targets = len(ids), part.targets
    columns = {"test_set": pa.array([test_set] * n, pa.string()), "sample": pa.array(ids.tolist())}
    several = {_TARGET: targets} if targets.ndim == 1 else {f"{_TARGET}_{i}": t for i, t in enumerate(targets.T)}
    columns |= {name: pa.array(np.ascontiguousarray(values)) for name, values in several.items()}
    scores = zip(outputs.tolist(), part.scores.T, strict=True)
    columns |= {f"{_SCORE}{one}": pa.array(np.ascontiguousarray(values), pa.float32()) for one, values in scores}
    return pa.table(columns)


def confusion(scores: pd.DataFrame, test_set: str | None = None) -> pd.DataFrame:
    """Count the samples of each class by what a head answers.

    Returns:
        True classes by predicted ones: those of the scores in their order, then those that only the test set has.

    Raises:
        KeyError: Where there is no such test set.
        ValueError: Where it is not classes that are predicted.
    """
    from sklearn.metrics import confusion_matrix

    if "target" not in scores:
        raise ValueError(
            "A confusion matrix is one of classes; these are several labels or numbers. Next step: take the scores."
        )
    sets = scores.index.get_level_values("test_set")
    known = sets.unique().tolist()
    name = known[0] if test_set is None else test_set
    if name not in known:
        raise KeyError(f"there is no test set '{name}'; its scores are kept of: {', '.join(known)}")
    rows = scores[sets == name]
    kind = rows["target"].dtype.type if rows["target"].dtype.kind in "iu" else str
    columns = [str(column) for column in scores]
    classes = [kind(column.removeprefix("score_")) for column in columns if column.startswith("score_")]
    classes += sorted(set(rows["target"]) - set(classes))
    counts = confusion_matrix(rows["target"], rows["predicted"], labels=np.array(classes))
    return pd.DataFrame(counts, index=pd.Index(classes, name="target"), columns=pd.Index(classes, name="predicted"))
