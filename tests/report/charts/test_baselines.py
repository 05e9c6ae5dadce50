"""Baselines and controls in the figures of a run."""

import pytest

from helpers import made_results as made
from helpers.drawn import drawn
from layerprobe.report.charts.baselines import name_places
from layerprobe.report.charts.depth_curve import depth_curve
from layerprobe.report.charts.heat_map import heat_map
from layerprobe.results.arrow_tables import to_frame


def test_names_keep_their_places_where_there_is_room_and_a_line_apart_where_not():
    assert name_places([0.2, 0.8], (0.0, 1.0), 100) == [0.2, 0.8]
    close = name_places([0.52, 0.5, 0.51], (0.0, 1.0), 100)
    assert sorted(close) == pytest.approx([0.5, 0.61, 0.72])
    assert close[1] < close[2] < close[0], "in the order of the lines"
    at_the_top = name_places([0.99, 1.0], (0.0, 1.0), 100)
    assert at_the_top == pytest.approx([0.89, 1.0])


@pytest.fixture
def results():
    rows = [made.record("bag_of_words", 0, 0, "input", test_error=0.31)]
    rows += [
        made.record("final", 3, i, name, test_error=0.3 - 0.05 * i, shuffled_error=0.35 + 0.01 * i)
        for i, name in enumerate(["embeddings", "layer0", "layer1"], 1)
    ]
    return to_frame(rows).assign(majority_error=0.33)


def test_a_baseline_is_a_line_across_the_curve_and_no_checkpoint(results):
    chart = depth_curve(results)
    rows = drawn(chart)
    assert set(rows["checkpoint"].dropna()) == {"final"}
    assert "input" not in set(rows["layer"].dropna())
    lines = rows.dropna(subset="baseline").set_index("baseline_name")["baseline"].to_dict()
    assert lines == pytest.approx({"majority class 33.0%": 0.33, "bag of words 31.0%": 0.31})
    control = rows.dropna(subset="control")
    assert control["value"].tolist() == pytest.approx([0.36, 0.37, 0.38])
    assert control["baseline_name"].dropna().unique().tolist() == ["shuffled labels"]
    assert set(drawn(heat_map(results))["caption"].dropna()) == {"final (step 3)"}


def test_a_baseline_far_beyond_the_curve_is_named_above_it(results):
    chart = depth_curve(results.assign(majority_error=0.9, shuffled_error=0.88))
    assert "majority class 90.0%" in " ".join(chart.to_dict()["title"]["subtitle"])
    assert "shuffled labels" in " ".join(chart.to_dict()["title"]["subtitle"])
    assert "control" not in drawn(chart) or drawn(chart)["control"].isna().all()
