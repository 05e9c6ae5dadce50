"""Metrics beside the records: kept, merged and forgotten with them; runs of before have none and go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import layerprobe
from helpers import made_results as made
from layerprobe.results.merge import merge_results
from layerprobe.results.reader import Run
from layerprobe.results.store import ProbeStore
from layerprobe.types import LayerResult, MetricRecord


def measured(checkpoint: str, step: int, depth: int, *values: float) -> LayerResult:
    result = made.result(checkpoint, step, depth, f"layer{depth}")
    place = (checkpoint, step, 0, depth, f"layer{depth}")
    return replace(
        result, metrics=tuple(MetricRecord(*place, "knn", "test", "error", 60, value, value / 2) for value in values)
    )


def values(frame: pd.DataFrame) -> list[float]:
    return frame["value"].tolist()


def test_kept_replaced_and_forgotten(tmp_path: Path) -> None:
    with ProbeStore(tmp_path) as store:
        store.add(measured("final", 100, 1, 0.3, 0.4))
        store.add(measured("final", 100, 0, 0.2))
        assert values(store.metrics()) == values(Run.read(tmp_path).metrics()) == [0.2, 0.3, 0.4]
        store.merge()
        store.add(measured("final", 100, 1, 0.1))
        store.add(measured("initial", 0, 0))
    assert values(store.metrics()) == values(Run.read(tmp_path).metrics()) == [0.2, 0.1]
    assert layerprobe.load(tmp_path).metrics["low"].tolist() == [0.1, 0.05]
    store.forget("final")
    assert values(store.metrics()) == []


def test_merged_where_some_have_none(tmp_path: Path) -> None:
    for name, depth, found in (("a", 0, [0.2]), ("b", 1, [])):
        with ProbeStore(tmp_path / name) as store:
            store.add(measured("final", 100, depth, *found))
    assert not (tmp_path / "b" / "metrics.parquet").exists()
    merge_results([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert values(Run.read(tmp_path / "all").metrics()) == [0.2]


@pytest.mark.parametrize("merged", [False, True])
def test_a_run_of_before_goes_on(tmp_path: Path, merged: bool) -> None:
    store = ProbeStore(tmp_path)
    store.add(made.result("initial", 0, 0, "layer0"))
    (part,) = (tmp_path / "parts").rglob("*.parquet")
    pq.write_table(pq.read_table(part, partitioning=None).drop_columns(["metrics"]), part)
    if merged:
        ProbeStore(tmp_path).merge()
    assert values(Run.read(tmp_path).metrics()) == []
    with ProbeStore(tmp_path) as again:
        assert again.done("initial") == {"layer0"}
        again.add(measured("final", 100, 0, 0.2))
    assert values(Run.read(tmp_path).metrics()) == [0.2]
    assert len(Run.read(tmp_path).path()) == len(again.path()) == 6
