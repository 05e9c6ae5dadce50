"""A run's figures and the page's views are the same charts: the same marks and the same colours."""

import pytest

from helpers import made_runs
from layerprobe.report.charts.depth_curve import depth_curve
from layerprobe.report.charts.heat_map import heat_map
from layerprobe.report.charts.l2_path import path_curve
from layerprobe.report.page.page_data import page_data
from layerprobe.report.page.views import single_view
from layerprobe.report.run_comparison import compare


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return compare([made_runs.write_run(tmp_path_factory.mktemp("run"), l2=made_runs.L2)])


def marks(layers, *kinds):
    return [layer["mark"] for layer in layers if layer["mark"]["type"] in kinds and "size" not in layer["mark"]]


def leaves(layers):
    """The layers with a mark; on the page, those that look up the same rows are one layer."""
    return [leaf for layer in layers for leaf in (leaves(layer["layer"]) if "layer" in layer else [layer])]


def view(run, name):
    return leaves(single_view(page_data(run), name, 300, 200)["layer"])


def test_curves_over_depth(run):
    figure = depth_curve(run.runs[0].results).to_dict()["layer"]
    bands, lines = marks(figure, "area"), [mark for mark in marks(figure, "line") if "strokeDash" not in mark]
    assert (len(bands), len(lines)) == (1, 1)
    for name, n_kinds in (("curves", 2), ("seed_mean", 1)):  # of each run, and of the means of many
        assert marks(view(run, name), "area") == bands * n_kinds
        assert [mark for mark in marks(view(run, name), "line") if "strokeDash" not in mark] == lines * n_kinds
    points = [layer["mark"] for layer in figure if layer["mark"]["type"] == "point"]
    assert [layer["mark"] for layer in view(run, "curves") if layer["mark"]["type"] == "point"] == points * 2


def test_heat_maps(run):
    figure, page = heat_map(run.runs[0].results).to_dict()["layer"], view(run, "layer_map")
    assert marks(page, "rect", "text") == marks(figure, "rect", "text")
    scales = [layers[0]["encoding"]["color"]["scale"] for layers in (figure, page)]
    assert scales[0] == scales[1]
    assert scales[0]["scheme"] == "yellowgreenblue"


def test_regularisation_paths(run):
    figure = path_curve(run.runs[0].path()).to_dict()["concat"][0]["layer"]
    assert [layer["mark"] for layer in view(run, "l2_path")] == [layer["mark"] for layer in figure]
