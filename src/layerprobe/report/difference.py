"""Two runs, or the layers of one, compared sample by sample."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerprobe.report.mcnemar import holm, mcnemar_p
from layerprobe.results.run import Run

LEVEL = 0.05
"""Probability of calling any of the layers different where none is."""

_SPLIT_FREE = ("data.batch_size", "data.num_workers", "data.seed", "data.root", "data.download")


def compare_runs(first: Run, second: Run, checkpoint: str, other: str | None = None) -> pd.DataFrame:
    """Compare two runs layer by layer on the same test samples.

    Args:
        first: A run.
        second: Another, probed on the same test split.
        checkpoint: The checkpoint of the first run.
        other: The checkpoint of the second; by default that of the same name.

    Returns:
        One row for each layer that both have, in order of depth: `layer`, `first_error`, `second_error`,
        `only_first` and `only_second` (samples that only one of the two heads gets right), `p` (McNemar's mid-p),
        `p_holm` (corrected for the number of layers), `differs`. No row where the test splits differ.
    """
    if split_of(first) != split_of(second):
        return _table([])
    pairs = [
        (layer, right, other_right)
        for layer, right in _correct(first, checkpoint).items()
        if (other_right := _correct(second, other or checkpoint).get(layer)) is not None
    ]
    return _table(pairs)


def compare_layers(run: Run, checkpoint: str, layer: str) -> pd.DataFrame:
    """Compare one layer of a run with each of its other layers.

    Args:
        run: The run.
        checkpoint: The checkpoint.
        layer: The layer that the others are compared with.

    Returns:
        As `compare_runs`; `layer` is the other layer, which is the second of the two.
    """
    correct = _correct(run, checkpoint)
    if layer not in correct:
        return _table([])
    return _table([(name, correct[layer], right) for name, right in correct.items() if name != layer])


def split_of(run: Run) -> str:
    """Write down what decides on a run's test samples: two runs are paired where this is equal."""
    data = {key: value for key, value in run.config.items() if key == "data" or key.startswith("data.")}
    return repr(sorted((key, str(value)) for key, value in data.items() if key not in _SPLIT_FREE))


def in_words(table: pd.DataFrame, first: str, second: str) -> str:
    """Say whether two runs differ.

    Args:
        table: From `compare_runs`.
        first: Name of the first run.
        second: Name of the second.

    Returns:
        One or two sentences.
    """
    n = len(table)
    if n == 0:
        return f"{first} and {second} cannot be compared: they have no layer in common, or other test samples."
    rule = f"McNemar's mid-p, Holm over {n} layer{'s' if n > 1 else ''}, {LEVEL:.0%}"
    found = table[table["differs"]]
    if found.empty:
        return (
            f"{first} and {second} do not differ at any of {n} layers ({rule}); smallest p {table['p_holm'].min():.2g}."
        )
    parts = [
        f"{row['layer']} ({row['first_error']:.2%} against {row['second_error']:.2%}, p {row['p_holm']:.2g})"
        for row in found.to_dict("records")
    ]
    named = ", ".join(parts[:6]) + (f" and {len(parts) - 6} more" if len(parts) > 6 else "")
    return f"{first} and {second} differ at {len(found)} of {n} layers ({rule}): {named}."


def _correct(run: Run, checkpoint: str) -> dict[str, np.ndarray]:
    depth = dict(zip(run.results["layer"], run.results["depth"], strict=True))
    rows = run.correct()
    rows = rows[(rows["checkpoint"] == checkpoint) & rows["layer"].isin(list(depth))]
    found = {
        layer: np.asarray(right, dtype=bool)
        for layer, right in zip(rows["layer"], rows["correct"], strict=True)
        if right is not None and len(right)
    }
    return dict(sorted(found.items(), key=lambda item: depth[item[0]]))


def _table(pairs: list[tuple[str, np.ndarray, np.ndarray]]) -> pd.DataFrame:
    rows = []
    for layer, first, second in pairs:
        if len(first) != len(second):
            continue
        only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
        rows.append(
            (layer, 1 - first.mean(), 1 - second.mean(), only_first, only_second, mcnemar_p(only_first, only_second))
        )
    columns = ["layer", "first_error", "second_error", "only_first", "only_second", "p"]
    table = pd.DataFrame(rows, columns=columns)
    table["p_holm"] = holm(table["p"].tolist())
    table["differs"] = table["p_holm"] < LEVEL
    return table
