import pandas as pd
import pytest

from helpers import made_results as made
from layerprobe.results.arrow_tables import to_frame
from layerprobe.results.logged_metrics import layer_metrics
from layerprobe.types import MetricRecord


def test_one_number_for_each_layer_in_order_of_depth():
    rows = [
        made.record(depth=2, layer="fc", test_error=0.1),
        made.record(depth=0, test_error=0.5),
        made.failed(depth=1),
    ]
    assert list(layer_metrics(to_frame(rows)).items()) == [
        ("probe/input/test_error", 0.5),
        ("probe/fc/test_error", 0.1),
    ]
    assert layer_metrics(to_frame([])) == {}


def test_several_checkpoints_are_refused():
    both = pd.concat([to_frame([made.record("initial", 0)]), to_frame([made.record()])])
    with pytest.raises(ValueError, match="found initial, final"):
        layer_metrics(both)


def test_what_is_compared_with_the_linear_head_has_keys_of_its_own():
    def measured(layer, depth, head, metric, test_set, value, checkpoint="final"):
        return MetricRecord(checkpoint, 100, 2, depth, layer, head, test_set, metric, 60, value)

    metrics = to_frame(
        [
            measured("conv", 1, "knn", "error", "test", 0.25),
            measured("conv", 1, "knn", "error_difference", "test", 0.05),
            measured("input", 0, "knn", "error", "test", 0.5),
            measured("input", 0, "knn", "error", "shifted", 0.75),
            measured("input", 0, "knn", "error", "test", 0.9, checkpoint="initial"),
            measured("input", 0, "few_shot", "error", "test", 0.125),
        ],
        MetricRecord,
    )
    found = layer_metrics(to_frame([made.record(depth=0), made.record(depth=1, layer="conv")]), metrics)
    assert list(found.items())[2:] == [("probe/input/knn/test_error", 0.5), ("probe/conv/knn/test_error", 0.25)]
    assert layer_metrics(to_frame([made.failed()]), metrics) == {}
