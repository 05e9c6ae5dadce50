"""The difference of two runs, or of two layers of one: in pairs where both were tested on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from layerprobe.formatting import listed
from layerprobe.report.significance import holm, mcnemar_p, two_sample_p
from layerprobe.results.reader import Run
from layerprobe.statistics.intervals import newcombe_interval, tango_interval

LEVEL = 0.05
"""Probability of calling any of the layers different where none is."""

Samples: TypeAlias = Literal["same", "other", "unknown"]
"""Whether two heads were tested on the same samples in the same order."""


class Tested(NamedTuple):
    """How a head did on its test samples.

    The fingerprint of its samples is empty where it is not known.
    """

    right: np.ndarray
    samples: str


def compare_runs(first: Run, second: Run, checkpoint: str, other: str | None = None) -> pd.DataFrame:
    """Compare two runs layer by layer: on the same test samples in pairs, else as independent samples.

    The checkpoint of the second run is by default that of the same name.

    Returns:
        One row for each layer that both have, in order of depth: `layer`, `first_error`, `second_error`, `low` and
        `high` (95 % interval of the second less the first: Tango's for pairs, else Newcombe's), `only_first` and
        `only_second` (samples that only one of the two heads gets right; missing where they are not in pairs), `p`
        (McNemar's mid-p for pairs, else Pearson's), `p_holm` (corrected for the number of layers), `differs`, and
        `samples`: `same`, `other`, or `unknown` where a run was written by a version that kept no fingerprint.
    """
    one_pass = first.directory.resolve() == second.directory.resolve() and checkpoint == (other or checkpoint)
    return compare_heads(tested_heads(first, checkpoint), tested_heads(second, other or checkpoint), one_pass=one_pass)


def compare_heads(first: Mapping[str, Tested], second: Mapping[str, Tested], *, one_pass: bool = False) -> pd.DataFrame:
    """Compare two sets of heads layer by layer, as `compare_runs`.

    `one_pass` says that both were tested in one pass over test, so that it is the same without a fingerprint.
    """
    rows = []
    for layer, one in first.items():
        if (other := second.get(layer)) is None:
            continue
        samples = _samples(one, other, one_pass)
        wrong, n = int((~one.right).sum()), len(one.right)
        other_wrong, other_n = int((~other.right).sum()), len(other.right)
        only: tuple[int | None, int | None] = (None, None)
        if samples == "same":
            b, c = int((one.right & ~other.right).sum()), int((other.right & ~one.right).sum())
            only, p = (b, c), mcnemar_p(b, c)
            low, high = (float(end) for end in tango_interval(b, c, n))
        else:
            p = two_sample_p(wrong, n, other_wrong, other_n)
            low, high = newcombe_interval(wrong, n, other_wrong, other_n)
        rows.append((layer, wrong / n, other_wrong / other_n, low, high, *only, p, samples))
    columns = [
        "layer", "first_error", "second_error", "low", "high", "only_first", "only_second", "p", "samples",
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns).astype({"only_first": "Int64", "only_second": "Int64"})
    table["p_holm"] = holm(table["p"].tolist())
    table["differs"] = table["p_holm"] < LEVEL
    return table


def difference_sentence(table: pd.DataFrame, first: str, second: str) -> str:
    """Say whether two runs differ."""
    n = len(table)
    if n == 0:
        return f"{first} and {second} cannot be compared: they have no layer in common whose answers were kept."
    paired = (table["samples"] == "same").all()
    test = "McNemar's mid-p" if paired else "Pearson's test"
    layers = "layers" if n > 1 else "layer"
    rule = f"{test}, Holm over {n} {layers}, {LEVEL:.0%}"
    remark = "" if paired else f" {_REMARKS['other' if (table['samples'] == 'other').any() else 'unknown']}"
    found = table[table["differs"]]
    if found.empty:
        return (
            f"{first} and {second}: no difference shown at any of {n} {layers} ({rule}); "
            f"smallest p {table['p_holm'].min():.2g}.{remark}"
        )
    parts = [
        f"{row['layer']} ({row['first_error']:.2%} against {row['second_error']:.2%}, p {row['p_holm']:.2g})"
        for row in found.to_dict("records")
    ]
    return f"{first} and {second} differ at {len(found)} of {n} {layers} ({rule}): {listed(parts, 6)}.{remark}"


_REMARKS = {
    "other": "They were tested on other samples, so they are compared as independent ones, not in pairs.",
    "unknown": (
        "Whether they were tested on the same samples cannot be known, since a run was written by a version that kept "
        "no fingerprint of them: they are compared as independent ones, not in pairs."
    ),
}


def tested_heads(run: Run, checkpoint: str) -> dict[str, Tested]:
    """Look up how the heads of a checkpoint did, by layer, in order of depth; those whose answers were kept."""
    depth = dict(zip(run.results["layer"], run.results["depth"], strict=True))
    rows = run.correct()
    rows = rows[(rows["checkpoint"] == checkpoint) & rows["layer"].isin(list(depth))]
    found = {
        layer: Tested(np.asarray(right, dtype=bool), samples or "")
        for layer, samples, right in zip(rows["layer"], rows["samples"], rows["correct"], strict=True)
        if right is not None and len(right)
    }
    return dict(sorted(found.items(), key=lambda item: depth[item[0]]))


def _samples(first: Tested, second: Tested, one_pass: bool) -> Samples:
    if len(first.right) != len(second.right):
        return "other"
    if not first.samples or not second.samples:
        return "same" if one_pass and first.samples == second.samples else "unknown"
    return "same" if first.samples == second.samples else "other"
