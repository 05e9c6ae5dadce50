"""Results on several test sets: each as a row of its own, and under keys of its own."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from helpers import made_results as made
from layerprobe.results.arrow_tables import to_frame
from layerprobe.results.logged_metrics import layer_metrics
from layerprobe.results.test_sets import lines_of_test_sets, on_each_test_set
from layerprobe.types import MetricRecord


def metric(layer: str, test_set: str, metric: str, value: float, checkpoint: str = "final", **other: Any) -> Any:
    about: dict[str, Any] = {"step": 100, "epoch": 2, "depth": 0, "head": "selected", "n_train": 60}
    return MetricRecord(
        checkpoint=checkpoint, layer=layer, test_set=test_set, metric=metric, value=value, **about | other
    )


ROWS = [
    made.record("words", 0, 0, "input"),
    made.record(depth=0, layer="input"),
    made.record(depth=1, layer="a"),
    made.failed(depth=2, layer="b"),
]
METRICS = [
    metric(layer, test_set, name, value, low=low, high=high)
    for layer, error in (("input", 0.5), ("a", 0.3))
    for test_set, more in (("test", 0.0), ("far", 0.2))
    for name, value, low, high in (
        ("error", error + more, error + more - 0.1, error + more + 0.1),
        ("loss", error, float("nan"), float("nan")),
        ("n_test", 20 + 100 * more, float("nan"), float("nan")),
    )
]
OTHERS = [
    metric("a", "far", "error", 0.9, head="knn"),
    metric("a", "", "seconds", 1.0),
]


def test_a_layer_has_a_row_for_each_test_set_and_what_was_read_on_one_keeps_its_own() -> None:
    found = on_each_test_set(to_frame(ROWS), to_frame([*OTHERS, *METRICS], MetricRecord))
    assert list(zip(found["checkpoint"], found["layer"], found["test_set"], strict=True)) == [
        ("words", "input", "test"), ("final", "input", "test"), ("final", "input", "far"), ("final", "a", "test"),
        ("final", "a", "far"), ("final", "b", "test"), ("final", "b", "far"),
    ]  # fmt: skip
    rows = found.set_index(["checkpoint", "layer", "test_set"])
    far = rows.loc[("final", "a", "far")]
    assert far["test_error"] == pytest.approx(0.5)
    assert (far["test_error_low"], far["test_error_high"]) == pytest.approx((0.4, 0.6))
    assert (far["test_loss"], far["n_test"], far["val_error"]) == (0.3, 40, ROWS[2].val_error)
    assert pd.isna(far["test_auc"]), "what was not measured there is not that of another test set"
    assert rows.loc[("words", "input", "test"), "test_error"] == ROWS[0].test_error
    assert found["n_test"].dtype == "int64"


def test_one_test_set_changes_nothing() -> None:
    frame = to_frame(ROWS)
    for metrics in ([], OTHERS, [m for m in METRICS if m.test_set == "test"]):
        found = on_each_test_set(frame, to_frame(metrics, MetricRecord))
        pd.testing.assert_frame_equal(found.drop(columns="test_set"), frame)
        assert set(found["test_set"]) == {"test"}


def test_one_test_set_goes_by_the_name_that_is_given() -> None:
    found = on_each_test_set(to_frame(ROWS), to_frame(OTHERS, MetricRecord), "far")
    assert set(found["test_set"]) == {"far"}


def test_the_keys_of_further_test_sets_carry_their_names() -> None:
    found = on_each_test_set(to_frame(ROWS), to_frame(METRICS, MetricRecord))
    keys = layer_metrics(found[found["checkpoint"] == "final"])
    assert keys == pytest.approx(
        {
            "probe/input/test_error": 0.5,
            "probe/input/far/test_error": 0.7,
            "probe/a/test_error": 0.3,
            "probe/a/far/test_error": 0.5,
        }
    )
    assert list(layer_metrics(to_frame(ROWS[1:]))) == ["probe/input/test_error", "probe/a/test_error"]


def test_lines_of_test_sets_end_with_the_primary_one() -> None:
    found = on_each_test_set(to_frame(ROWS[1:]), to_frame(METRICS, MetricRecord))
    assert lines_of_test_sets(found)["checkpoint"].drop_duplicates().tolist() == ["far", "test"]


def test_a_test_set_that_a_checkpoint_was_not_read_on_has_no_row_there() -> None:
    rows = [made.record(name, step, 0, "input") for name, step in (("initial", 0), ("final", 100))]
    read = [
        metric("input", test_set, name, value, checkpoint)
        for name, value in (("error", 0.5), ("n_test", 20.0))
        for checkpoint, names in (("initial", ("test", "noisy")), ("final", ("test", "rot")))
        for test_set in names
    ]
    found = on_each_test_set(to_frame(rows), to_frame(read, MetricRecord))
    assert list(zip(found["checkpoint"], found["test_set"], strict=True)) == [
        ("initial", "test"), ("initial", "noisy"), ("final", "test"), ("final", "rot"),
    ]  # fmt: skip
