"""The test samples that each head gets right, packed as bits: the page compares any two heads with them."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from layerprobe.report.page.page_data import PageData
from layerprobe.report.run_comparison import Comparison


def correct_bits(
    comparison: Comparison, data: PageData, budget: int = 900_000
) -> tuple[list[dict[str, Any]], list[str]]:
    """Pack the per-sample correctness of the heads.

    Each head's bits are taken relative to those of the run's previous head, which is nearly the same one, and deflated
    run by run; the browser inflates them itself.

    Args:
        comparison: The runs.
        data: What the page draws.
        budget: Bytes at most; where that is too little, the last checkpoint of each run is kept, then as many runs as
            fit.

    Returns:
        For each run with samples: `run` (its number), `n` (samples), `heads` (numbers of checkpoint, layer name and
        test samples) and `bits` (base64). Heads are compared in pairs where the numbers of their samples are equal; a
        negative one stands for a pass over samples that have no fingerprint. And what was left out, in words.
    """
    checkpoints = {name: i for i, name in enumerate(data.checkpoints)}
    names = {name: i for i, name in enumerate(data.layer_names)}
    known: dict[tuple[str, int], int] = {}
    every: list[dict[str, Any]] = []
    last: list[dict[str, Any]] = []
    n = 0
    for i, run in enumerate(comparison.runs):
        rows = run.correct()
        rows = rows[rows["checkpoint"].isin(checkpoints) & rows["layer"].isin(names)]
        rows = rows[[right is not None and len(right) > 0 for right in rows["correct"]]].fillna({"samples": ""})
        if rows.empty or rows["correct"].map(len).nunique() > 1:
            continue
        about = {"run": i, "n": len(rows["correct"].iloc[0])}
        order = rows["checkpoint"].map(checkpoints)
        rows = rows.assign(
            samples=[
                known.setdefault((samples, about["n"]), len(known)) if samples else -1 - i * len(checkpoints) - at
                for samples, at in zip(rows["samples"], order, strict=True)
            ]
        )
        n += 1
        for packed, own in ((every, rows), (last, rows[order == order.max()])):
            if _size(packed) <= budget:
                packed.append(about | _packed(own, checkpoints, names))
    if len(every) == n and _size(every) <= budget:
        return every, []
    while last and _size(last) > budget:
        last.pop()
    return last, [
        f"Of {n} runs, {len(last)} can be compared sample by sample on this page, at their last checkpoint; "
        f"compare=[RUN,RUN] compares any two"
    ]


def _packed(rows: Any, checkpoints: dict[str, int], names: dict[str, int]) -> dict[str, Any]:
    heads = [
        (checkpoints[c], names[layer], samples, np.asarray(right, dtype=bool))
        for c, layer, samples, right in rows[["checkpoint", "layer", "samples", "correct"]].itertuples(index=False)
    ]
    heads.sort(key=lambda head: head[:2])
    bits = np.stack([right for *_, right in heads])
    changes = np.concatenate([bits[:1], bits[1:] ^ bits[:-1]])
    content = zlib.compress(np.packbits(changes, axis=1).tobytes(), level=9)
    return {
        "heads": [[c, layer, samples] for c, layer, samples, _ in heads],
        "bits": base64.b64encode(content).decode(),
    }


def _size(packed: list[dict[str, Any]]) -> int:
    return sum(len(run["bits"]) + 8 * len(run["heads"]) for run in packed)
