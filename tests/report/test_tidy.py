import math
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import vl_convert
from scipy import stats

from helpers import made_results as made
from layerprobe.formatting import interval_text, number_text
from layerprobe.report.charts.depth_curve import depth_curve
from layerprobe.report.group_mean import group_mean
from layerprobe.report.layer_labels import shared_folder, short_names
from layerprobe.report.monotonicity import monotonicity
from layerprobe.report.tidy import axis_top, tidy_results
from layerprobe.results.arrow_tables import to_frame

LONG = [f"encoder.stack.layer.{i}.{name}" for i in range(2) for name in ("attention.self", "intermediate_act_fn")]


def test_rows_are_ordered_by_training_then_depth_and_captioned():
    rows = [
        ("final", 1200, 1, "fc"),
        ("final", 1200, 0, "input"),
        ("initial", 0, 1, "fc"),
        ("epoch_1", 600, 0, "input"),
    ]
    frame = tidy_results(to_frame([made.record(*row) for row in rows]))
    assert frame["caption"].tolist() == [
        "initial (untrained)", "epoch_1 (step 600)", "final (step 1,200)", "final (step 1,200)",
    ]  # fmt: skip
    assert frame["layer"].tolist() == ["fc", "input", "input", "fc"]
    assert frame["position"].tolist() == [1, 0, 0, 1]
    assert frame["untrained"].tolist() == [True, False, False, False]


def test_long_names_of_checkpoints_do_not_widen_a_picture():
    stem = "runs/" + 12 * "a_long_folder_" + "step"
    for names in ([f"{stem}{i}" for i in range(2)], [f"{i}{80 * 'x'}{i}{80 * 'y'}" for i in range(2)]):
        frame = made.results(["input", "fc"], [(name, 10 * i + 10) for i, name in enumerate(names)])
        short = tidy_results(frame)["caption"].unique()
        assert len(short) == 2
        assert max(map(len, short)) < 50
        drawing = vl_convert.vegalite_to_svg(depth_curve(frame).to_dict())
        assert float(ET.fromstring(drawing).get("width")) < 700
    middle = [f"{40 * 'x'}{i}{40 * 'y'}" for i in range(2)]
    frame = made.results(["input"], [(name, 10) for name in middle])
    assert len(tidy_results(frame)["caption"].unique()) == 2, "names that differ in their middle stay whole"


def test_a_network_that_was_only_built_is_called_untrained_once():
    frame = tidy_results(to_frame([made.record("untrained", 0)]))
    assert frame["caption"].tolist() == ["untrained"]
    assert frame["untrained"].all()
    assert not tidy_results(to_frame([made.record("as_built", 0), made.record("pretrained", 0)]))["untrained"].any()


def test_a_lone_network_whose_step_is_unknown_is_not_called_untrained():
    frame = tidy_results(to_frame([made.record("network", 0)]))
    assert frame["caption"].tolist() == ["network"]
    assert not frame["untrained"].any()


def test_gaps_in_depth_leave_no_gap_in_position():
    frame = tidy_results(to_frame([made.record(depth=depth, layer=f"l{depth}") for depth in (0, 3, 9)]))
    assert frame["position"].tolist() == [0, 1, 2]


def test_an_empty_frame_is_prepared_too():
    assert tidy_results(to_frame([])).empty


def test_short_names_stay_and_long_ones_lose_what_they_share():
    assert short_names(["input", "layer1.0.conv1", "layer1.0.add"]) == ["input", "layer1.0.conv1", "layer1.0.add"]
    assert shared_folder(["input", *LONG]) == "encoder.stack.layer"
    assert short_names(["input", *LONG])[1:3] == ["0.attention.self", "0.intermediate_act_fn"]
    (clipped,) = short_names(["first_" + "x" * 40 + "_last"])
    assert len(clipped) <= 30
    assert clipped.startswith("first_")
    assert clipped.endswith("_last")


def test_an_axis_reaches_to_the_highest_error_unless_few_would_flatten_all_others():
    usual = [0.02, 0.03, 0.05, 0.04, 0.06, 0.05, 0.04, 0.03, 0.02]
    assert axis_top(pd.Series([*usual, 0.15])) == 0.15
    assert axis_top(pd.Series([*usual, 0.45, math.nan])) == 0.06
    assert axis_top(pd.Series([*usual, 0.45, 0.5])) == 0.5
    assert axis_top(pd.Series([0.01, 0.9])) == 0.9
    assert axis_top(pd.Series([0.0] * 9 + [0.9])) == 0.9
    assert math.isnan(axis_top(pd.Series([math.nan])))


def test_monotonicity_names_each_rise_and_whether_the_intervals_are_apart():
    errors = [0.5, 0.3, math.nan, 0.35, 0.2, 0.4]
    rows = [
        made.record(depth=i, layer=f"l{i}", test_error=e, test_error_low=e - 0.04, test_error_high=e + 0.04)
        for i, e in enumerate(errors)
    ]
    found = monotonicity(to_frame([*rows, made.record("initial", 0)]))
    assert found[["depth_before", "layer_before", "depth", "layer"]].to_numpy().tolist() == [
        [1, "l1", 3, "l3"], [4, "l4", 5, "l5"],
    ]  # fmt: skip
    assert found["rise"].tolist() == pytest.approx([0.05, 0.2])
    assert found["beyond_interval"].tolist() == [False, True]
    assert monotonicity(to_frame(rows[:2])).empty


def test_mean_and_student_interval_agree_with_scipy():
    values = [0.1, 0.4, 0.35, 0.8]
    jobs = pd.DataFrame({"width": ["2"] * 5 + ["3"], "loss": [*values, math.nan, 0.5]})
    found = group_mean(jobs, "loss", ["width"])
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert found.loc[0, ["n", "mean", "low", "high"]].tolist() == pytest.approx([4, np.mean(values), low, high])
    assert found.loc[1, ["n", "mean"]].tolist() == [1, 0.5]
    assert found.loc[1, ["low", "high"]].isna().all()


def test_rates_have_wilsons_interval():
    jobs = pd.DataFrame({"solved": [1.0] * 7 + [0.0] * 3})
    found = group_mean(jobs, "solved", [], yes_or_no=True).iloc[0]
    expected = stats.binomtest(7, 10).proportion_ci(method="wilson")
    assert [found["low"], found["high"]] == pytest.approx([expected.low, expected.high], abs=1e-6)


def test_an_error_that_is_0_or_1_for_every_seed_is_no_draw_of_0_or_1():
    for values in ([0.0, 0.0, 0.0], [1.0, 1.0], [0.1, 0.1, 0.1]):
        found = group_mean(pd.DataFrame({"error": values}), "error", []).iloc[0]
        assert found["mean"] == pytest.approx(values[0])
        assert found[["low", "high"]].isna().all()
    found = group_mean(pd.DataFrame({"error": [0.0, 1.0, 1.0]}), "error", [], bounds=(0.0, 1.0)).iloc[0]
    assert (found["low"], found["high"]) == (0, 1)
    low, high = stats.t.interval(0.95, 2, loc=2 / 3, scale=stats.sem([0, 1, 1]))
    assert low < 0
    assert high > 1
    one_sided = group_mean(pd.DataFrame({"error": [0.9, 1.4]}), "error", [], bounds=(0.0, math.inf)).iloc[0]
    assert one_sided["low"] == 0
    assert one_sided["high"] > 1.4


def test_no_run_of_two_that_solves_has_an_interval_from_a_plain_zero():
    found = group_mean(pd.DataFrame({"solved": [0.0, 0.0]}), "solved", [], yes_or_no=True).iloc[0]
    assert math.copysign(1, found["low"]) == 1
    assert found["low"] == 0
    assert found["high"] == pytest.approx(0.6576, abs=1e-4)


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (-5e-17, ".0%", "0%"),
        (-0.0, ".2%", "0.00%"),
        (-0.004, ".2%", "-0.40%"),
        (-0.0, ".4g", "0"),
        (-1e-300, ".4g", "-1e-300"),
        (math.nan, ".2%", "–"),
        (-1e-9, ".1f", "0.0"),
    ],
)
def test_rounding_leaves_no_negative_zero(value, form, text):
    assert number_text(value, form) == text


def test_an_interval_as_text():
    assert interval_text(-5e-17, 0.6576) == "0.00% to 65.76%"
    assert interval_text(math.nan, 0.5) == interval_text(0.5, math.nan) == "–"
    assert interval_text(-1e-9, 0.25, "+.2f") == "0.00 to +0.25"


def test_a_shortened_name_keeps_the_numbers_of_its_modules_and_its_end():
    blocks = [f"features.denseblock{i}.denselayer{j}.conv{k}" for i in (1, 2) for j in (1, 11) for k in (1, 2)]
    short = short_names(["input", *blocks, "classifier"], 24)
    assert len(set(short)) == len(short)
    assert all(len(name) <= 24 for name in short)
    assert short[1] == "denseb…1.densel…1.conv1"
    assert short[0] == "input" and short[-1] == "classifier"
    (deep,) = short_names(["model.language_model.layers.10.self_attn.o_proj"], 24)
    assert "10" in deep and deep.endswith("o_proj") and len(deep) <= 24
