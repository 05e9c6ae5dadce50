import pandas as pd
import pytest

from helpers import made_results as made
from layerprobe.results.layer_metrics import layer_metrics
from layerprobe.results.record_schema import to_frame


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
