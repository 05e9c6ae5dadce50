from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from helpers import made_results as made
from layerprobe.report.charts.concept_depth import concept_depth_chart
from layerprobe.report.papers.concept_depth import (
    concept_depth,
    concept_layers,
    converging_point,
    jump_point,
    published_converging_point,
)
from layerprobe.report.papers.concept_depth_table import concept_rows, concept_summary, concept_table, points_table
from layerprobe.report.picture_files import save
from layerprobe.results.arrow_tables import to_frame

NAMES = {"Common": "CommonClaim"}


def test_the_points_follow_their_definitions() -> None:
    accuracies = [0.5, 0.51, 0.6, 0.7, 0.71, 0.72, 0.60]
    assert jump_point(accuracies) == 3 / 7
    assert converging_point(accuracies) == 6 / 7
    assert published_converging_point(accuracies) == 1.0
    assert math.isnan(jump_point([0.5, 0.52]))
    assert math.isnan(converging_point([0.5, 0.7]))
    assert published_converging_point([0.5, 0.5, 0.5, 0.5]) == 3 / 4


def test_the_published_points_and_peaks_are_found_from_the_published_curves(shared: Path) -> None:
    curves = json.loads((shared / "reference" / "jin_2024_curves_7b.json").read_text())
    published = pd.read_csv(shared / "reference" / "jin_2024_peak_and_converging.csv").set_index(["model", "dataset"])
    printed, as_published, n = 0, 0, 0
    for dataset, models in curves.items():
        for model, accuracies in models.items():
            row = published.loc[(model, NAMES.get(dataset, dataset))]
            n += 1
            assert 100 * max(accuracies) == pytest.approx(row["peak_accuracy_percent"], abs=0.011)
            wanted = row["converging_point_percent"]
            as_published += 100 * published_converging_point(accuracies) == pytest.approx(wanted, abs=0.011)
            printed += 100 * converging_point(accuracies) == pytest.approx(wanted, abs=0.011)
    assert (n, as_published) == (27, 27)
    assert printed == 2, "the printed formula is not what was published"


def results(n: int = 12, *, words: bool = True) -> pd.DataFrame:
    rows = [made.record("pretrained", 0, 0, "input")]
    errors = {i: 0.5 - 0.03 * i for i in range(1, n + 1)}
    rows += [made.record("pretrained", 0, i, f"layer{i}", test_error=e, val_error=e) for i, e in errors.items()]
    rows += [made.record("bag_of_words", 0, 0, "input", test_error=0.3, test_auc=0.75)] if words else []
    return to_frame(rows)


def test_the_layers_leave_input_and_baselines_out() -> None:
    layers = concept_layers(results())
    assert layers["number"].tolist() == list(range(1, 13))
    assert layers["depth"].iloc[-1] == 1.0
    assert layers["accuracy"].tolist() == pytest.approx([0.5 + 0.03 * i for i in range(1, 13)])
    assert layers["bag_of_words"].unique().tolist() == pytest.approx([0.7])
    assert layers["majority"].unique().tolist() == pytest.approx([0.4])
    found = concept_depth(results())
    assert (found.peak_layer, found.peak_depth, found.n_layers) == ("layer12", 1.0, 12)
    assert (found.bag_of_words_accuracy, found.bag_of_words_auc) == pytest.approx((0.7, 0.75))
    assert math.isnan(concept_depth(results(words=False)).bag_of_words_accuracy)


def test_the_peak_is_chosen_on_validation() -> None:
    found = results()
    found.loc[found["layer"] == "layer5", "val_error"] = 0.01
    peak = concept_depth(found)
    assert (peak.peak_layer, peak.peak_accuracy) == ("layer5", pytest.approx(0.65))


def test_a_failed_layer_and_nothing_at_all() -> None:
    both = to_frame([made.record("pretrained", 0, 1, "a"), made.failed("pretrained", 0, 2, "b")])
    assert concept_layers(both)["layer"].tolist() == ["a"]
    with pytest.raises(ValueError, match="no layer with a test error"):
        concept_depth(to_frame([made.failed("pretrained", 0, 1, "a")]))


def test_the_table_reads_the_papers_depths_and_the_chart_is_drawn(tmp_path: Path) -> None:
    about = {"model": "net", "precision": "fp32", "noise": "no noise"}
    runs = [
        (about | {"data": data, "noise": noise}, results(words=data == "a"))
        for data in ("a", "b")
        for noise in ("no noise", "aaa/bbb")
    ]
    summary = concept_summary(runs)
    assert summary["25%_acc"].iloc[0] == pytest.approx(0.5 + 0.03 * 3)
    assert summary["first_acc"].iloc[0] == pytest.approx(0.53)
    assert summary["83%_acc"].iloc[0] == pytest.approx(0.5 + 0.03 * 9)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(concept_table(summary))
    console.print(points_table(summary))
    text = console.export_text()
    assert ".530" in text
    assert "aaa/bbb" in text
    assert "fp32" not in text, "what is the same for all is not shown"
    for table in (concept_table(summary), points_table(summary)):
        narrow = Console(width=80, record=True, file=io.StringIO())
        narrow.print(table)
        text = narrow.export_text()
        assert "…" not in text
        assert text.count("aaa/bbb") == 2
        assert {"first", "83%", "last"} <= set(text.split()) or {
            "(printed)",
            "(published)",
            "majority",
            "words",
        } <= set(text.split())
    files = save(concept_depth_chart(concept_rows(runs)), tmp_path / "concept")
    assert all(file.stat().st_size > 5000 for file in files)
    svg = files[1].read_text()
    assert svg.count("majority class") == 2
    assert "bag of words" in svg


def test_a_baseline_is_not_averaged_over_kinds_of_noise(tmp_path: Path) -> None:
    about = {"model": "net", "precision": "fp32", "data": "a"}
    noisy = results()
    noisy.loc[noisy["checkpoint"] == "bag_of_words", "test_error"] = 0.4
    rows = concept_rows([(about | {"noise": "no noise"}, results()), (about | {"noise": "aaa/bbb"}, noisy)])
    svg = save(concept_depth_chart(rows), tmp_path / "concept")[1].read_text()
    assert svg.count(">bag of words · ") == 2
    assert svg.count(">majority class<") == 1


def test_accuracies_without_intervals_are_drawn(tmp_path: Path) -> None:
    about = {"model": "net", "precision": "fp32", "data": "a", "noise": "no noise"}
    without = results().assign(test_error_low=math.nan, test_error_high=math.nan)
    svg = save(concept_depth_chart(concept_rows([(about, without)])), tmp_path / "concept")[1].read_text()
    assert "NaN" not in svg


def test_each_panel_has_its_axis_also_above_an_empty_place(tmp_path: Path) -> None:
    about = {"model": "net", "precision": "fp32", "noise": "no noise"}
    rows = concept_rows([(about | {"data": data}, results()) for data in ("a", "b", "c")])
    svg = save(concept_depth_chart(rows), tmp_path / "concept")[1].read_text()
    assert svg.count(">depth<") == 3
