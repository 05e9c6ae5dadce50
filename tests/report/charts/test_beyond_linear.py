"""Other readers beside the linear head: thin lines that are named at their ends, and their differences over depth."""

from __future__ import annotations

import pandas as pd
import pytest

from helpers import made_results as made
from layerprobe.report.charts.beyond_linear import beyond_linear
from layerprobe.report.charts.depth_curve import depth_curve
from layerprobe.report.run_figures import write_figures
from layerprobe.results.arrow_tables import to_frame
from layerprobe.types import MetricRecord, PathRecord

LAYERS = ("input", "conv", "head")
ERRORS = {"knn": (0.2, 0.15, 0.1), "mlp": (0.1, 0.09, 0.1), "nearest_mean": (0.9, 0.8, 0.85)}


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    return made.results(LAYERS, (("epoch_1", 100), ("final", 300)))


@pytest.fixture(scope="module")
def metrics(results: pd.DataFrame) -> pd.DataFrame:
    found = []
    for row in results.to_dict("records"):
        for head, errors in ERRORS.items():
            error = errors[row["depth"]]
            at = (row["checkpoint"], row["step"], row["epoch"], row["depth"], row["layer"], head)
            values = {"error": error, "error_difference": row["test_error"] - error}
            for test_set, more in (("test", 0.0), ("shifted", 0.3)):
                found += [
                    MetricRecord(*at, test_set, name, 60, value + more, value + more - 0.02, value + more + 0.02)
                    for name, value in values.items()
                ]
        found.append(MetricRecord(*at[:5], "few_shot", "test", "error", 8, 0.5))
    return to_frame(found, MetricRecord)


def _rows(chart, mark):
    spec = chart.to_dict()
    layers = [layer for layer in spec["layer"] if layer["mark"].get("type") == mark and "reader" in str(layer)]
    return [row for layer in layers for row in spec["datasets"][layer["data"]["name"]]]


def test_the_depth_curve_has_them_as_thin_lines_at_the_last_checkpoint(results, metrics):
    chart = depth_curve(results, metrics=metrics)
    drawn = pd.DataFrame(_rows(chart, "line"))
    assert set(drawn["checkpoint"]) == {"final"}
    for head, name in (("knn", "nearest neighbours"), ("mlp", "hidden layer")):
        lines = drawn[drawn["reader"] == name].sort_values("position")
        assert lines["value"].tolist() == pytest.approx(ERRORS[head])
        assert lines["colour"].nunique() == 1
    assert set(drawn["reader"]) == {"nearest neighbours", "hidden layer"}
    names = _rows(chart, "text")
    assert {row["reader"] for row in names} == {"nearest neighbours", "hidden layer"}
    assert len({row["baseline_place"] for row in names}) == 2  # they end at one error, and are not written over
    subtitle = " ".join(chart.to_dict()["title"]["subtitle"])
    assert "nearest mean" in subtitle
    assert "other readers of final" in subtitle


def test_without_them_the_depth_curve_is_as_ever(results, metrics):
    assert depth_curve(results).to_dict() == depth_curve(results, metrics=metrics.iloc[:0]).to_dict()


def test_differences_have_their_interval_in_pairs(results, metrics):
    chart = beyond_linear(results, metrics)
    drawn = pd.DataFrame(_rows(chart, "line"))
    linear = results[results["checkpoint"] == "final"].sort_values("depth")["test_error"].to_numpy()
    for reader, head in (("nearest neighbours", "knn"), ("hidden layer", "mlp"), ("nearest mean", "nearest_mean")):
        lines = drawn[drawn["reader"] == reader].sort_values("position")
        assert lines["value"].tolist() == pytest.approx((linear - ERRORS[head]).tolist())
        assert (lines["high"] - lines["low"]).tolist() == pytest.approx([0.04] * 3)
    axes = [layer["encoding"]["y"] for layer in chart.to_dict()["layer"]]
    low, high = axes[0]["scale"]["domain"]
    assert low < drawn["low"].min() < drawn["high"].max() < high


def test_nothing_to_draw(results, metrics):
    with pytest.raises(ValueError, match="nearest_mean, knn or mlp"):
        beyond_linear(results, metrics[metrics["head"] == "few_shot"])


def test_a_run_has_the_figure_where_there_is_something_to_draw(results, metrics, tmp_path):
    none = to_frame([], PathRecord)
    assert "beyond_linear.png" in {file.name for file in write_figures(results, none, tmp_path / "a", None, metrics)}
    few = metrics[metrics["head"] == "few_shot"]
    assert "beyond_linear.png" not in {file.name for file in write_figures(results, none, tmp_path / "b", None, few)}
