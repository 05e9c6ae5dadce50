"""One meaning of the last checkpoint and of its best layer."""

import math

import pandas as pd
import pytest

from helpers import made_results as made
from layerprobe.results.arrow_tables import to_frame
from layerprobe.results.best import BestLayer, at_checkpoint, at_last_checkpoint, best_layer, best_of, last_checkpoint
from layerprobe.results.objectives import area_under_depth_curve, best_validation_error

LAYERS = ["input", "conv", "fc"]
NOTHING = BestLayer()


def results(*checkpoints, **others):
    return made.results(LAYERS, checkpoints, **others)


def test_the_last_checkpoint_has_the_most_steps_wherever_it_stands():
    assert last_checkpoint(results(("final", 100), ("initial", 0), ("epoch_1", 50))) == "final"


def test_of_checkpoints_with_as_many_steps_the_later_one_is_the_last():
    assert last_checkpoint(results(("initial", 0), ("epoch_2", 100), ("final", 100))) == "final"
    assert last_checkpoint(results(("untrained", 0), ("bag_of_words", 0))) == "bag_of_words"


def test_a_checkpoint_without_any_test_error_is_not_the_last():
    rows = [made.record("initial", 0, i, name) for i, name in enumerate(LAYERS)]
    rows += [made.failed("final", 100, i, name) for i, name in enumerate(LAYERS)]
    assert last_checkpoint(to_frame(rows)) == "initial"
    rows[-1] = made.record("final", 100, 2, "fc")
    assert last_checkpoint(to_frame(rows)) == "final"
    assert at_last_checkpoint(to_frame(rows))["layer"].tolist() == ["fc"]


def test_an_unfinished_checkpoint_is_passed_over_unless_there_is_no_other():
    both = results(("initial", 0), ("final", 100))
    assert last_checkpoint(both, {"final"}) == "initial"
    assert best_of(at_checkpoint(both, last_checkpoint(both, {"final"}))).test_error > best_layer(both).test_error
    assert last_checkpoint(results(("final", 100)), {"final"}) == "final"


def test_the_best_layer_has_the_lowest_validation_error_and_of_several_the_first():
    frame = results(("initial", 0), ("final", 100))
    frame.loc[frame["checkpoint"] == "final", "val_error"] = [0.3, 0.1, 0.1]
    frame.loc[frame["checkpoint"] == "final", "test_error"] = [0.01, 0.2, 0.0]
    shuffled = frame.iloc[[5, 0, 4, 2, 3, 1]]
    for rows in (frame, shuffled):
        assert best_layer(rows)[:2] == ("conv", 0.2)
        assert best_validation_error(rows) == 0.1
        assert area_under_depth_curve(rows) == pytest.approx(((0.3 + 0.1) / 2 + 0.1) / 2)


@pytest.mark.parametrize(
    "frame", [to_frame([]), to_frame([made.failed()]), results(("final", 9), val_error=math.nan)],
    ids=["no row", "failed", "no validation split"],
)  # fmt: skip
def test_without_a_validation_error_there_is_no_best_layer(frame):
    found = best_layer(frame)
    assert found.layer == NOTHING.layer
    assert math.isnan(found.test_error)
    assert math.isnan(best_validation_error(frame))
    assert math.isnan(area_under_depth_curve(frame))


def test_every_reader_agrees(tmp_path):
    """What a sweep, the dashboard, the report and the terminal call a run's best layer is the same one."""
    from layerprobe.report.monotonicity import depth_sentence
    from layerprobe.report.run_comparison import side_by_side
    from layerprobe.results.reader import Run

    frame = results(("final", 100), ("initial", 0))
    frame["val_error"] = [0.3, 0.1, 0.2, 0.0, 0.0, 0.0]
    run = Run(tmp_path, "done", "", {}, (), frame)
    row = side_by_side([run]).table().iloc[0]
    assert (row["checkpoint"], row["best_layer"]) == ("final", "conv")
    assert row["test_error"] == best_layer(frame).test_error == frame["test_error"].iloc[1]
    assert "validation prefers conv" in depth_sentence(run)
    assert isinstance(at_last_checkpoint(frame), pd.DataFrame)


def test_a_baseline_is_no_last_checkpoint_of_a_network_that_failed():
    rows = [made.record("bag_of_words", 0, 0, "input")]
    rows += [made.failed("network", 0, i, name) for i, name in enumerate(LAYERS)]
    assert last_checkpoint(to_frame(rows)) == ""
    assert best_layer(to_frame(rows)).layer == ""


def test_the_network_with_random_weights_is_not_the_last_though_probed_last():
    assert last_checkpoint(results(("network", 0), ("untrained", 0))) == "network"
    assert last_checkpoint(results(("untrained", 0))) == "untrained"
