"""Figures render, and show the numbers of the results."""

import struct
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from helpers import made_results as made
from layerprobe.report.charts.depth_curve import depth_curve
from layerprobe.report.charts.heat_map import heat_map
from layerprobe.report.charts.l2_path import path_curve
from layerprobe.report.charts.layer_axis import thinned
from layerprobe.report.picture_files import save
from layerprobe.report.run_figures import write_figures, write_run_figures
from layerprobe.report.style import lines
from layerprobe.results.arrow_tables import to_frame
from layerprobe.results.reader import Run
from layerprobe.results.store import ProbeStore
from layerprobe.types import MetricRecord, PathRecord

LAYERS = ["input", "conv1", "layer1.0.add", "fc"]
CHECKPOINTS = [("initial", 0), ("epoch_1", 50), ("final", 100)]
L2 = tuple(10.0**i for i in range(-6, 2))


def rows_of(chart):
    """All rows of data in a chart, by the name of their data set."""
    spec = chart.to_dict()
    return {name: pd.DataFrame(rows) for name, rows in spec["datasets"].items()}


def largest(chart):
    return max(rows_of(chart).values(), key=len)


def png_size(file):
    content = file.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


def texts(file):
    return [node.text for node in ET.parse(file).iter() if node.tag.endswith(("text", "tspan")) and node.text]


@pytest.fixture(scope="module")
def results():
    return made.results(LAYERS, CHECKPOINTS)


@pytest.fixture(scope="module")
def written(tmp_path_factory, results):
    files = write_figures(results, made.paths(LAYERS, CHECKPOINTS, L2), tmp_path_factory.mktemp("figures") / "new")
    return {file.name: file for file in files}


def test_three_figures_as_png_and_svg(written):
    stems = ("depth_curve", "heat_map", "path_curve")
    assert set(written) == {stem + ending for stem in stems for ending in (".png", ".svg")}
    for stem in stems:
        width, height = png_size(written[f"{stem}.png"])
        drawing = ET.parse(written[f"{stem}.svg"]).getroot()
        assert (width, height) == (2 * float(drawing.get("width")), 2 * float(drawing.get("height")))
        assert min(width, height) > 300
    assert not [file for file in written["heat_map.png"].parent.iterdir() if file.suffix == ".tmp"]


def test_the_drawings_name_layers_and_checkpoints(written):
    curve = texts(written["depth_curve.svg"])
    assert {*LAYERS, "initial (untrained)", "epoch_1 (step 50)", "final (step 100)", "Test error over depth"} <= set(
        curve
    )
    table = texts(written["heat_map.svg"])
    assert {*LAYERS, "initial", "untrained", "epoch_1", "step 50"} <= set(table)
    assert {"33.3%", "50.0%"} <= set(table)
    assert {*LAYERS, "1e-6", "1e1"} <= set(texts(written["path_curve.svg"]))


def test_curve_holds_every_error_with_its_interval(results):
    drawn = largest(depth_curve(results)).sort_values(["step", "depth"]).reset_index(drop=True)
    for column in ("layer", "checkpoint", "test_error", "test_error_low", "test_error_high"):
        assert drawn[column].tolist() == results[column].tolist()


def test_error_axis_begins_at_zero_and_takes_in_the_majority_only_where_it_does_not_flatten(results):
    final = results[results["checkpoint"] == "final"]

    def shown(majority):
        spec = depth_curve(final.assign(majority_error=majority)).to_dict()
        (band,) = [layer for layer in spec["layer"] if layer["mark"]["type"] == "area"]
        rule = [layer for layer in spec["layer"] if layer["mark"]["type"] == "rule"]
        return band["encoding"]["y"]["scale"]["domain"], len(rule), " ".join(spec["title"]["subtitle"])

    (low, high), rules, subtitle = shown(0.45)
    assert low == 0
    assert 0.45 < high <= 1
    assert rules == 1
    assert "majority" not in subtitle
    (low, high), rules, subtitle = shown(0.9)
    assert low == 0
    assert final["test_error_high"].max() < high < 0.4
    assert rules == 0
    assert "beyond the axis: majority class 90.0%" in subtitle


def test_lines_differ_without_colour_and_the_untrained_one_stands_out():
    look = lines([True, False, False, False, False])
    assert len({tuple(dash) for dash in look.dashes}) == len(set(look.colours)) == 5
    assert len(set(zip(look.shapes, look.fills, strict=True))) == 5
    assert look.fills[0] == "white"
    assert look.dashes[-1] == [1, 0]
    assert lines([False]).colours == look.colours[-1:]


def test_failed_layers_leave_gaps_and_are_marked(tmp_path):
    rows = [made.record(depth=i, layer=name) for i, name in enumerate(LAYERS)]
    rows[2] = made.failed(depth=2, layer=LAYERS[2])
    frame = to_frame(rows)
    for name, chart in (("curve", depth_curve(frame)), ("map", heat_map(frame))):
        _, drawing = save(chart, tmp_path / name)
        assert "×" in texts(drawing)
        assert "failed" in " ".join(texts(drawing))


def test_a_single_error_that_would_flatten_the_others_stands_at_the_edge_with_its_figure(tmp_path):
    layers = [f"layer{i}" for i in range(10)]
    calm = {"test_error_low": 0.01, "test_error_high": 0.05, "test_error": 0.03}
    rows = [made.record("initial", 0, i, name, **calm) for i, name in enumerate(layers)]
    rows[9] = made.record("initial", 0, 9, "layer9", test_error=0.403, test_error_low=0.35, test_error_high=0.45)
    frame = to_frame(rows)
    chart = depth_curve(frame)
    (band,) = [layer for layer in chart.to_dict()["layer"] if layer["mark"]["type"] == "area"]
    assert band["encoding"]["y"]["scale"]["domain"][1] == pytest.approx(1.07 * 0.05)
    _, drawing = save(chart, tmp_path / "curve")
    assert texts(drawing).count("40.3%") == 1
    assert "beyond the axis: majority class 60.0% and triangles" in " ".join(texts(drawing))
    _, drawing = save(heat_map(frame), tmp_path / "map")
    assert {"40.30%", "3.00%"} <= set(texts(drawing))
    assert "darkest: 3.00% and above" in " ".join(texts(drawing))


@pytest.mark.parametrize("n_checkpoints", [1, 5])
def test_many_layers_fit_on_a_page_and_keep_their_first_and_last_name(tmp_path, n_checkpoints):
    layers = [f"block{i // 8}.{i % 8}.conv" for i in range(130)]
    checkpoints = [(f"epoch_{i}", i) for i in range(n_checkpoints)]
    frame = made.results(layers, checkpoints)
    for name, chart in (("curve", depth_curve(frame)), ("map", heat_map(frame))):
        picture, drawing = save(chart, tmp_path / name)
        assert max(png_size(picture)) < 2400
        named = [text for text in texts(drawing) if text in layers]
        assert {layers[0], layers[-1]} <= set(named)
        assert 40 <= len(named) <= 70


@pytest.mark.parametrize("n", [5, 18, 40, 43])
def test_every_row_of_the_heat_map_has_its_name_while_there_is_room(tmp_path, n):
    layers = [f"layer{i}" for i in range(n)]
    _, drawing = save(heat_map(made.results(layers, CHECKPOINTS)), tmp_path / "map")
    assert [text for text in texts(drawing) if text in layers] == layers


@pytest.mark.parametrize("n", [1, 2, 7, 40, 41, 130, 131])
@pytest.mark.parametrize("room", [5, 8, 13, 60])
def test_named_layers_keep_their_distance(n, room):
    if n * room < 26:
        return
    places = thinned([str(i) for i in range(n)], room)["values"]
    assert places[0] == 0
    assert places[-1] == n - 1
    assert all(room * gap >= 13 or gap == 1 <= room / 13 for gap in np.diff(places))


def test_path_has_a_panel_for_each_checkpoint_and_marks_what_was_chosen():
    chart = path_curve(made.paths(LAYERS, CHECKPOINTS, L2)).to_dict()
    assert [panel["title"]["text"] for panel in chart["concat"]] == [
        "initial (untrained)", "epoch_1 (step 50)", "final (step 100)",
    ]  # fmt: skip
    assert sum(map(len, chart["datasets"].values())) == len(LAYERS) * len(CHECKPOINTS) * len(L2)
    for rows in chart["datasets"].values():
        chosen = [row for row in rows if row["selected"]]
        assert [row["layer"] for row in chosen] == LAYERS
        assert {row["l2"] for row in chosen} == {1e-3}


def test_path_leaves_out_controls_thins_long_ones_and_shows_zero(tmp_path):
    paths = made.paths(LAYERS, [("final", 100)], [0.0, *np.logspace(-6, 1, 301).tolist(), 1e-3])
    shuffled = paths.assign(control="shuffled")
    chart = path_curve(pd.concat([paths, shuffled], ignore_index=True))
    drawn = largest(chart)
    assert len(drawn) <= len(LAYERS) * 62
    assert drawn["selected"].sum() == len(LAYERS)
    _, drawing = save(chart, tmp_path / "path")
    assert "1e-4" in texts(drawing)


def test_path_leaves_out_what_has_no_layers():
    words = made.paths(["input"], [("bag_of_words", 0)], L2)
    chart = path_curve(pd.concat([words, made.paths(LAYERS, [("pretrained", 0)], L2)], ignore_index=True))
    assert set(largest(chart)["caption"]) == {"pretrained"}


def test_nothing_to_draw_writes_nothing(tmp_path):
    nothing = to_frame([made.failed()]), to_frame([], PathRecord)
    assert write_figures(*nothing, tmp_path / "figures") == []
    assert write_figures(to_frame([]), to_frame([], PathRecord), tmp_path / "figures") == []
    assert not (tmp_path / "figures").exists()


def test_a_run_is_drawn_from_its_folder(tmp_path):
    with ProbeStore(tmp_path / "probes") as store:
        for i, layer in enumerate(LAYERS):
            store.add(made.result(depth=i, layer=layer))
    corners = pd.DataFrame(
        {"x1": [0.0, 0.0, 1.0, 1.0], "x2": [0.0, 1.0, 0.0, 1.0], "label": [0, 1, 1, 0], "output": 0.5}
    )
    points = corners.assign(checkpoint="final", step=100, layer="fc")
    points.drop(columns="label").to_parquet(tmp_path / "probes" / "surface.parquet")
    points.to_parquet(tmp_path / "probes" / "points.parquet")
    points.assign(h1=points["x1"], h2=points["x2"]).to_parquet(tmp_path / "probes" / "hidden.parquet")
    files = write_run_figures(Run.read(tmp_path), tmp_path / "figures")
    stems = ("depth_curve", "heat_map", "path_curve", "angles_layers", "surface", "hidden")
    assert [file.name for file in files] == [stem + ending for stem in stems for ending in (".png", ".svg")]
    assert all(file.stat().st_size > 2000 for file in files)


def test_errors_of_a_population_are_drawn_without_intervals(tmp_path):
    results = made.results(LAYERS, CHECKPOINTS)
    assert "95% interval" in str(depth_curve(results).to_dict()["title"]), "the negative control"
    chart = depth_curve(results.assign(test_error_low=np.nan, test_error_high=np.nan))
    assert "95% interval" not in str(chart.to_dict()["title"])
    file = next(file for file in save(chart, tmp_path / "curve") if file.suffix == ".svg")
    assert "NaN" not in file.read_text()


def test_a_path_of_one_value_is_no_figure(tmp_path, results):
    files = write_figures(results, made.paths(LAYERS, CHECKPOINTS, [1e-3]), tmp_path)
    assert {file.stem for file in files} == {"depth_curve", "heat_map"}


def test_what_cannot_be_drawn_takes_nothing_from_the_others(tmp_path, results, caplog, monkeypatch):
    def broken(*_):
        raise KeyError("no such thing\nand more")

    monkeypatch.setattr("layerprobe.report.run_figures.heat_map", broken)
    files = write_figures(results, made.paths(LAYERS, CHECKPOINTS, L2), tmp_path)
    assert {file.stem for file in files} == {"depth_curve", "path_curve"}
    assert "heat_map was not drawn: KeyError: 'no such thing" in caplog.text


def test_a_network_whose_layers_all_failed_beside_baselines_has_no_figure(tmp_path, caplog):
    rows = [made.record("bag_of_words", 0, 0, "input")]
    rows += [made.failed("final", 100, depth, layer) for depth, layer in enumerate(LAYERS)]
    assert write_figures(to_frame(rows), to_frame([], PathRecord), tmp_path) == []
    assert not caplog.text


def test_readers_of_a_checkpoint_before_one_that_failed_are_drawn(tmp_path, caplog):
    rows = [made.record("epoch_1", 50, depth, layer) for depth, layer in enumerate(LAYERS)]
    rows += [made.failed("final", 100, depth, layer) for depth, layer in enumerate(LAYERS)]
    metrics = [
        MetricRecord("epoch_1", 50, 1, depth, layer, "knn", "test", metric, 60, 0.1, 0.05, 0.2)
        for depth, layer in enumerate(LAYERS)
        for metric in ("error", "error_difference")
    ]
    files = write_figures(to_frame(rows), to_frame([], PathRecord), tmp_path, metrics=to_frame(metrics, MetricRecord))
    assert {file.stem for file in files} == {"depth_curve", "heat_map", "beyond_linear"}
    assert not caplog.text
