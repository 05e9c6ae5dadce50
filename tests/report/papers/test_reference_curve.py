"""A published curve: its two layouts, what it is compared with, and what does not fit."""

from __future__ import annotations

import io
import json
import re

import pandas as pd
import pytest
from rich.console import Console

from helpers import made_results as made
from layerprobe.report.charts.depth_curve import depth_curve
from layerprobe.report.depth_curve_options import DepthView
from layerprobe.report.error_column import TEST_ERROR, TRAIN_ERROR
from layerprobe.report.papers.reference_curve import Reference, ReferenceCurveError, reference_table
from layerprobe.report.picture_files import save

LAYERS = ["input", "a", "b"]


@pytest.fixture
def results() -> pd.DataFrame:
    return made.results(LAYERS, [("initial", 0), ("step_50", 50), ("step_100", 100)])


@pytest.fixture
def by_step(tmp_path):
    file = tmp_path / "curve.json"
    file.write_text(json.dumps({"0": [0.3, 0.2, 0.1], "100": [0.2, 0.1, 0.05]}))
    return file


def test_layers_are_compared_in_the_order_of_depth_at_the_steps_of_the_reference(results, by_step):
    shuffled = results.sample(frac=1, random_state=0)
    compared = Reference.read(by_step).compared(shuffled, TRAIN_ERROR)
    assert compared["checkpoint"].tolist() == ["initial"] * 3 + ["step_100"] * 3
    assert compared["layer"].tolist() == LAYERS * 2
    assert compared["reference"].tolist() == [0.3, 0.2, 0.1, 0.2, 0.1, 0.05]
    wanted = results.set_index(["step", "layer"])["train_error"]
    assert compared["error"].tolist() == [wanted[step, layer] for step in (0, 100) for layer in LAYERS]
    assert (compared["difference"] == compared["error"] - compared["reference"]).all()


def test_a_curve_of_a_trained_network_is_compared_with_the_last_checkpoint(results, tmp_path):
    file = tmp_path / "resnet.json"
    file.write_text(json.dumps({"source": "A paper", "layers": ["x", "y", "z"], "error": [0.9, 0.5, 0.3]}))
    reference = Reference.read(file)
    compared = reference.compared(results, TEST_ERROR)
    assert reference.name == "A paper"
    assert compared["checkpoint"].unique().tolist() == ["step_100"]
    assert compared["error"].tolist() == results.loc[results["step"] == 100, "test_error"].tolist()


def test_the_distance_is_a_line_for_each_checkpoint_and_a_row_for_each_layer(results, by_step, tmp_path):
    view = DepthView("train", by_step)
    table = view.distance(results, tmp_path / "figures")
    written = pd.read_csv(tmp_path / "figures" / "reference.csv")
    assert len(written) == 6
    first = written[written["step"] == 0]["difference"].abs()
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    (line,) = [line for line in console.export_text().splitlines() if "initial" in line]
    assert f"{100 * first.mean():.1f}" in line
    assert f"{100 * first.max():.1f}" in line
    assert reference_table(view.reference.compared(results, TRAIN_ERROR), "x").row_count == 2


def test_the_figure_shows_train_error_and_the_published_curve(results, by_step, tmp_path):
    chart = depth_curve(results, TRAIN_ERROR, Reference.read(by_step))
    _, drawing = save(chart, tmp_path / "curve")
    text = drawing.read_text()
    assert "Train error over depth" in text
    assert "thin and black: curve" in text
    assert not any("95% interval" in shown for shown in re.findall(r"<text[^>]*>([^<]*)", text))
    kinds = [layer["mark"]["type"] for layer in chart.to_dict()["layer"]]
    assert kinds.count("line") == 2
    assert "area" not in kinds


@pytest.mark.parametrize("content", ["not json", "[1, 2]", '{"0": 3}', '{"first": [0.1]}', '{"error": ["x"]}'])
def test_a_file_that_is_no_curve_is_refused(tmp_path, content):
    file = tmp_path / "curve.json"
    file.write_text(content)
    with pytest.raises(ReferenceCurveError, match="is not a reference curve"):
        Reference.read(file)


def test_a_reference_that_does_not_fit_is_refused(results, by_step, tmp_path):
    with pytest.raises(ReferenceCurveError, match="No such file"):
        DepthView(reference=tmp_path / "nowhere.json")
    with pytest.raises(ReferenceCurveError, match="has 3 layers, and 2 were probed"):
        Reference.read(by_step).compared(results[results["layer"] != "a"], TEST_ERROR)
    with pytest.raises(ReferenceCurveError, match=r"callbacks\.probe\.steps"):
        Reference.read(by_step).compared(results[results["step"] == 50], TEST_ERROR)
    with pytest.raises(ValueError, match=r"report\.error"):
        DepthView("validation")
