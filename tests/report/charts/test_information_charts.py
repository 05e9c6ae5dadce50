"""The charts of V-information, compression and few-shot errors hold the metrics of a run."""

import math

import pandas as pd
import pytest

import layerprobe
from helpers import made_results as made
from helpers.drawn import drawn
from layerprobe.report.charts.few_shot_map import few_shot_map
from layerprobe.report.charts.information_curve import COMPRESSION, V_INFORMATION, information_curve
from layerprobe.results.arrow_tables import to_frame
from layerprobe.types import MetricRecord

CHECKPOINTS = {"untrained": 0, "final": 9}
LAYERS = [f"layers.{i}" for i in range(24)]


@pytest.fixture(scope="module")
def run() -> tuple[pd.DataFrame, pd.DataFrame]:
    records = [made.record("bag_of_words", 0, 0, "input", test_error=0.3)]
    metrics = [metric("bag_of_words", 0, "input", "v_information", "v_information", 0.1)]
    for name in CHECKPOINTS:
        for depth, layer in enumerate(LAYERS, 1):
            records.append(made.record(name, CHECKPOINTS[name], depth, layer, test_error=0.2))
            at = (name, depth, layer)
            bits = (0.02 if name == "untrained" else 0.1) + 0.03 * depth
            metrics += [
                metric(*at, "v_information", "v_information", bits, low=bits - 0.05, high=bits + 0.05),
                metric(*at, "v_information", "entropy", 0.99),
                metric(*at, "description_length", "compression", 1 + bits, test_set=""),
                metric(*at, "description_length", "prior_compression", 1.01, test_set=""),
                *(
                    metric(*at, "few_shot", "error", 0.5 - 0.01 * i - 0.005 * depth, n_train=10 * 2**i)
                    for i in range(8)
                ),
            ]
    return to_frame(records).assign(n_classes=10), to_frame(metrics, MetricRecord)


def metric(checkpoint, depth, layer, head, name, value, test_set="test", n_train=500, low=math.nan, high=math.nan):
    return MetricRecord(
        checkpoint, CHECKPOINTS.get(checkpoint, 0), 0, depth, layer, head, test_set, name, n_train, value, low, high
    )


def test_bits_over_depth_with_what_there_is_and_what_words_alone_say(run):
    rows = drawn(information_curve(run[1]))
    values = rows.dropna(subset="value")
    assert len(values) == 48
    assert set(values["caption"]) == {"untrained", "final (step 9)"}
    lines = rows.dropna(subset="baseline").set_index("baseline_name")["baseline"].to_dict()
    assert lines == pytest.approx({"all there are 0.99": 0.99, "bag of words 0.10": 0.1})


def test_compression_over_depth(run):
    rows = drawn(information_curve(run[1], COMPRESSION))
    assert rows["baseline_name"].dropna().tolist() == ["class frequencies 1.01"]
    assert rows["value"].max() == pytest.approx(1.1 + 0.03 * 24)


def test_few_shot_errors_are_cells_by_samples_of_a_class_beside_that_of_all(run):
    rows = drawn(few_shot_map(*run))
    assert len(rows) == 2 * 24 * 9
    cell = rows[(rows["layer"] == "layers.2") & (rows["caption"] == "final (step 9)")].set_index("samples")["value"]
    assert list(cell.index) == ["1", "2", "4", "8", "16", "32", "64", "128", "all"]
    assert cell["4"] == pytest.approx(0.5 - 0.02 - 0.015)
    assert cell["all"] == 0.2


def test_what_was_not_asked_for_is_not_drawn(run):
    with pytest.raises(ValueError, match="Probe with analysis=v_information"):
        information_curve(run[1].iloc[:0], V_INFORMATION)
    with pytest.raises(TypeError, match="does not have the metrics"):
        layerprobe.information_curve(run[0])


def test_few_shot_errors_of_one_checkpoint(run):
    results, metrics = (frame[frame["checkpoint"] == "final"] for frame in run)
    rows = drawn(few_shot_map(results, metrics))
    assert set(rows["caption"].dropna()) == {"final (step 9)"}
