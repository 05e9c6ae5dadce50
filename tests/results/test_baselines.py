"""What is a baseline among the results of a run, and what it is called."""

import pytest

from helpers import made_results as made
from layerprobe.results.arrow_tables import to_frame
from layerprobe.results.baselines import baseline_errors, baselines_above_majority, of_baselines, without_baselines


def test_a_checkpoint_of_which_only_the_input_was_probed_is_a_baseline_beside_others():
    rows = [made.record("bag_of_words", 0, 0, "input", test_error=0.3)]
    assert not of_baselines(to_frame(rows)).any(), "alone it is what the run is about"
    rows += [made.record("final", 3, 0, "input"), made.record("final", 3, 1, "fc")]
    frame = to_frame(rows)
    assert of_baselines(frame).tolist() == [True, False, False]
    assert set(without_baselines(frame)["checkpoint"]) == {"final"}
    assert baseline_errors(frame) == {
        "majority class": pytest.approx([frame["majority_error"].iloc[1]]),
        "bag of words": [0.3],
    }


def test_the_constant_answer_of_numbers_is_no_class():
    rows = [made.record("final", 3, 0, "input", task="regression", majority_error=1.01)]
    assert baseline_errors(to_frame(rows)) == {"mean of train": [1.01]}
    rows += [made.record("final", 3, 0, "input", majority_error=0.8)]
    assert baseline_errors(to_frame(rows)) == {"majority class": [0.8], "mean of train": [1.01]}


def test_a_step_of_training_is_no_baseline_though_only_its_input_is_done():
    rows = [made.record("initial", 0, depth, name) for depth, name in enumerate(("input", "fc"))]
    assert not of_baselines(to_frame([*rows, made.record("epoch_1", 50, 0, "input")])).any()


def test_a_baseline_that_errs_more_than_chance_allows_is_named():
    layers = [made.record("final", 3, depth, name, test_error_low=0.7) for depth, name in enumerate(("input", "fc"))]
    worse = made.record("bag_of_words", 0, 0, "input", test_error=0.75, test_error_low=0.61)
    within = made.record("text_length", 0, 0, "input", test_error=0.75, test_error_low=0.59)
    assert baselines_above_majority(to_frame([worse, within, *layers])) == {"bag of words": (0.75, 0.6)}
    assert baselines_above_majority(to_frame(layers)) == {}, "a network's layers are no baselines"
