"""The page, its pictures and the files beside it, without a browser."""

import json
import math
import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import asdict
from html import escape, unescape
from itertools import combinations

import altair as alt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vl_convert
from jsonschema import ValidationError
from markdown_it import MarkdownIt

from helpers import made_results as made
from helpers import made_runs
from layerprobe.files.parquet import read_parquet
from layerprobe.files.safe_names import printable
from layerprobe.report.charts.depth_curve import depth_curve
from layerprobe.report.markdown import markdown_summary
from layerprobe.report.page.correct_bits import correct_bits
from layerprobe.report.page.document import _bundle, page
from layerprobe.report.page.layer_map import row_labels
from layerprobe.report.page.page_data import page_data
from layerprobe.report.page.parameters import pickers
from layerprobe.report.page.views import linked_views, single_view, view_names
from layerprobe.report.report_files import write_report
from layerprobe.report.run_comparison import ReportError, compare
from layerprobe.results.arrow_tables import schema, to_table
from layerprobe.results.reader import Run
from layerprobe.types import MetricRecord


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return compare([made_runs.write_sweep(tmp_path_factory.mktemp("runs"), 6)])


@pytest.fixture(scope="module")
def written(comparison, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "all.html"
    return {file.name: file for file in write_report(comparison, out, pair=comparison.names[:2])}


def content_of(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def test_all_files_are_written(written):
    views = ("curves", "best_layer", "seed_mean", "l2_path", "layer_map", "difference")
    pictures = {f"{name}.{ending}" for name in views for ending in ("png", "svg")}
    assert set(written) == {"all.html", "all.csv", "all.parquet", "all.md"} | pictures
    assert all(file.stat().st_size > 500 for file in written.values())


def test_the_scripts_of_a_page_are_put_together_once_for_all_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = _bundle.__wrapped__()
    assert first == vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    monkeypatch.delattr(vl_convert, "javascript_bundle")
    assert _bundle.__wrapped__() == first
    monkeypatch.setattr("layerprobe.report.page.document.version", lambda name: "another")
    with pytest.raises(AttributeError, match="javascript_bundle"):
        _bundle.__wrapped__()


def test_pictures_are_as_wide_as_a_column(written):
    for name, file in written.items():
        if name.endswith(".svg"):
            assert 220 < float(ET.parse(file).getroot().get("width")) <= 3.6 * 96, name


def test_joined_tables_hold_every_record(written, comparison):
    expected = pd.concat([run.results for run in comparison.runs], ignore_index=True)
    for found in (pd.read_csv(written["all.csv"], keep_default_na=False), pd.read_parquet(written["all.parquet"])):
        assert found["test_error"].astype(float).tolist() == expected["test_error"].tolist()
        assert found["layer"].tolist() == expected["layer"].tolist()
        assert found["optimizer.lr"].astype(float).unique().tolist() == [0.001, 0.01, 0.1]


def test_summary_is_a_table_and_sentences(written, comparison):
    text = written["all.md"].read_text()
    assert text.startswith("## 6 runs (6 done)")
    rows = [line for line in text.splitlines() if line.startswith("| width=")]
    assert len(rows) == 6
    for line, row in zip(rows, comparison.table().to_dict("records"), strict=True):
        assert f"| {row['test_error']:.2%} |" in line
    assert "McNemar" in text
    assert text.count("At final the test error goes from") == 6


def test_page_is_one_file_that_may_ask_nobody(written):
    html = written["all.html"].read_text()
    assert "default-src 'none'" in html
    head = html.split("<script", 1)[0]
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", head)
    assert "@import" not in head


def test_text_from_a_run_cannot_become_markup(tmp_path):
    name = "</script><script>alert(1)</script>"
    run = made_runs.write_run(tmp_path / "a", overrides={"experiment": name}, layers=("input", name))
    html = page(compare([run]))
    assert name not in html
    assert content_of(html)["layers"] == ["input", name]


@pytest.mark.parametrize(
    "name", ["it's", 'q"\\', "two\nlines", "\u2028a\u2028", "\U000e0001tag", "'] + alert(1) + ['", "a.b[0]"]
)
def test_any_name_can_be_drawn(tmp_path, name):
    layers, checkpoints = ("input", name), [("initial", 0), (name, 10)]
    for i in range(2):
        made_runs.write_run(
            tmp_path / str(i), overrides={"model": f"{name}{i}", "optimizer.lr": name, "seed": i}, layers=layers,
            checkpoints=checkpoints,
        )  # fmt: skip
    comparison = compare([tmp_path])
    drawn = page_data(comparison)
    for view in ("curves", "best_layer", "seed_mean", "l2_path", "layer_map"):
        drawing = unescape(vl_convert.vegalite_to_svg(single_view(drawn, view, 300, 200)))
        assert printable(name) in drawing or view in ("best_layer", "l2_path")
    assert len(correct_bits(comparison, drawn)[0]) == 2
    frame = made.results(layers, [(name, 10), ("x", 20)])
    drawing = vl_convert.vegalite_to_svg(depth_curve(frame).to_dict())
    assert drawing.count("stroke-dasharray") >= 1


def test_curves_can_be_of_another_measure(tmp_path):
    run = made_runs.write_run(tmp_path / "a", columns={"test_auc": math.nan})
    found = []
    for row in Run.read(run).results.to_dict("records"):
        at = (row["checkpoint"], row["step"], row["epoch"], row["depth"], row["layer"])
        found += [
            MetricRecord(*at, "selected", "test", "balanced_accuracy", 60, 0.75, 0.7, 0.8),
            MetricRecord(*at, "selected", "shifted", "balanced_accuracy", 60, 0.1),
            MetricRecord(*at, "v_information", "test", "v_information", 60, 1.25, 1.0, 1.5),
            MetricRecord(*at, "description_length", "", "compression", 60, 3.0),
            MetricRecord(*at, "few_shot", "test", "error", 8, 0.5),
            MetricRecord(*at, "knn", "test", "error", 60, 0.3, 0.2, 0.4),
            MetricRecord(*at, "knn", "test", "error_difference", 60, 0.02, -0.1, 0.1),
        ]
    pq.write_table(to_table(found, MetricRecord), run / "probes" / "metrics.parquet")
    data = page_data(compare([run]))
    named = {measure.name: measure for measure in data.measures}
    values = {"balanced accuracy": 0.75, "V-information, bits": 1.25, "compression of the labels": 3.0}
    assert {name: data.rows[named[name].field].unique().tolist() for name in values} == {
        name: [value] for name, value in values.items()
    }
    assert data.rows[f"{named['balanced accuracy'].field}_high"].unique().tolist() == [0.8]
    assert named["balanced accuracy"].share
    assert not named["V-information, bits"].share
    assert {"training error", "validation error", "test error from 8 labelled samples"} < set(named)
    assert "AUC" not in named
    assert data.readers["error"].unique().tolist() == [0.3]
    assert len(data.rows) == len(found) / 7
    spec = single_view(data, "curves", 500, 300)
    assert "nearest neighbours" in vl_convert.vegalite_to_svg(spec)
    (parameter,) = (one for one in spec["params"] if one["name"] == "measure")
    parameter["value"] = named["V-information, bits"].field
    drawn = vl_convert.vegalite_to_svg(spec)
    assert "V-information, bits over depth" in drawn
    assert "nearest neighbours" not in drawn


def test_controls_of_many_problems_do_not_lie_upon_one_another(tmp_path):
    majorities = [0.45, 0.47, 0.48, 0.50, 0.51, 0.505, 0.9]
    for i, majority in enumerate(majorities):
        columns = {"majority_error": majority, "shuffled_error": 0.5 if i < 6 else 0.7}
        made_runs.write_run(tmp_path / str(i), overrides={"data": f"set{i}"}, seed=i, columns=columns)
    spec = single_view(page_data(compare([tmp_path])), "curves", 600, 330)
    for parameter in spec["params"]:
        if parameter["name"] == "controls":
            parameter["value"] = True
    drawing = ET.fromstring(vl_convert.vegalite_to_svg(spec))
    texts = [element.text for element in drawing.iter() if element.tag.endswith("text")]
    names = [text for text in texts if text and text.startswith(("majority", "shuffled"))]
    assert names == ["majority · 6 problems", "majority · data set6", "shuffled · 6 problems", "shuffled · data set6"]


def test_names_of_controls_and_of_networks_can_be_read(tmp_path):
    for i, (data, majority) in enumerate([("digits", 0.9), ("words", 0.5)]):
        near = {"majority_error": majority, "shuffled_error": majority - 0.01, "control_error": majority - 0.05}
        made_runs.write_run(tmp_path / data, overrides={"data": data}, seed=i, shift=0.1 * i, columns=near)
    drawn = page_data(compare([tmp_path]))
    drawing = ET.fromstring(vl_convert.vegalite_to_svg(single_view(drawn, "curves", 700, 330)))
    boxes = []
    for text in (element for element in drawing.iter() if element.tag.endswith("text")):
        if text.text and text.text.endswith(("data digits", "data words")):
            x, y = map(float, re.findall(r"[-\d.]+", text.attrib["transform"])[:2])
            wide = 5.2 * len(text.text)
            boxes.append((x - wide * {"start": 0, "middle": 0.5, "end": 1}[text.attrib["text-anchor"]], y, wide))
    assert len(boxes) == 8
    for (x, y, wide), (u, v, _) in combinations(sorted(boxes), 2):
        assert abs(y - v) > 9 or x + wide < u, "one name lies upon another"
    names = vl_convert.vegalite_to_svg(single_view(drawn, "layer_map", 330, 0))
    assert ">convnet (data digits)<" in names and ">convnet (data words)<" in names


def test_a_layer_map_of_one_problem_has_no_rows_of_networks_on_another(tmp_path):
    for data, layers in (("digits", ["a", "b"]), ("words", ["c", "d", "e"])):
        made_runs.write_run(tmp_path / data, overrides={"data": data}, layers=layers)
    drawn = page_data(compare([tmp_path]))
    for chosen, rows in (("", {"a", "b", "c", "d", "e"}), ("data words", {"c", "d", "e"})):
        spec = single_view(drawn, "layer_map", 330, 0)
        (parameter,) = (one for one in spec["params"] if one["name"] == "problem")
        parameter["value"] = chosen
        drawing = ET.fromstring(vl_convert.vegalite_to_svg(spec))
        texts = {element.text for element in drawing.iter() if element.tag.endswith("text")}
        assert texts & {"a", "b", "c", "d", "e"} == rows


def test_the_best_constant_answer_of_a_regression_is_the_mean_and_no_majority(tmp_path):
    columns = {"task": "regression", "majority_error": 1.0, "test_error": 0.5}
    made_runs.write_run(tmp_path / "0", columns=columns)
    drawn = page_data(compare([tmp_path]))
    spec = single_view(drawn, "curves", 600, 330)
    for parameter in spec["params"]:
        if parameter["name"] == "controls":
            parameter["value"] = True
    drawing = vl_convert.vegalite_to_svg(spec)
    assert ">mean of train<" in drawing and "majority" not in drawing
    assert "majority" not in next(picker.label for picker in pickers(drawn) if picker.name == "controls")


def test_each_problem_s_best_constant_answer_is_called_what_it_is(tmp_path):
    made_runs.write_run(
        tmp_path / "0", overrides={"probe.task.name": "a"}, columns={"majority_error": 0.6, "test_error": 0.2}
    )
    columns = {"task": "regression", "majority_error": 1.0, "test_error": 0.5}
    made_runs.write_run(tmp_path / "1", overrides={"probe.task.name": "b"}, columns=columns)
    drawn = page_data(compare([tmp_path]))
    assert drawn.runs["problem"].nunique() == 2
    spec = single_view(drawn, "curves", 900, 330)
    for parameter in spec["params"]:
        if parameter["name"] == "controls":
            parameter["value"] = True
    drawing = ET.fromstring(vl_convert.vegalite_to_svg(spec))
    texts = [element.text or "" for element in drawing.iter() if element.tag.endswith("text")]
    named = {text.split(" ·")[0] for text in texts if text.startswith(("majority", "mean of train"))}
    assert named == {"majority", "mean of train"}


def test_many_runs_over_many_layers_can_be_read(tmp_path):
    layers = [f"block{i}" for i in range(40)]
    for i in range(14):
        made_runs.write_run(
            tmp_path / str(i), overrides={"data": f"set{i % 2}", "optimizer.lr": 0.1 + i // 2}, seed=i, layers=layers,
            checkpoints=[("final", 9)], columns={"majority_error": 0.3},
        )  # fmt: skip
    drawn = page_data(compare([tmp_path]))
    curves = ET.fromstring(vl_convert.vegalite_to_svg(single_view(drawn, "curves", 700, 330)))
    places = {
        element.text: float(re.findall(r"[-\d.]+", element.attrib["transform"])[0])
        for element in curves.iter()
        if element.tag.endswith("text") and element.text
    }
    assert places["majority · 2 problems"] > 600, (
        "at the end of the line, not at the layer whose number is last as a text"
    )
    paths = vl_convert.vegalite_to_svg(single_view(drawn, "l2_path", 300, 200))
    assert paths.count('stroke-width="1.8"') == 2, "a mean for each colour, not a line for each run"
    rows = list(row_labels(drawn).values())
    assert [rows.index("block0"), len(rows)] == [2, 84], "a network's name has room"


def test_baselines_of_texts_come_first_and_are_no_choice_of_a_reducer(tmp_path):
    folder = made_runs.write_run(tmp_path / "a", checkpoints=[("pretrained", 0)])
    for file in (folder / "probes" / "results.parquet", folder / "probes" / "path.parquet"):
        table = pq.read_table(file)
        words = table.to_pandas().query("layer == 'input'").assign(checkpoint="bag_of_words", reducer="flatten")
        pq.write_table(pa.concat_tables([table, pa.Table.from_pandas(words, table.schema, preserve_index=False)]), file)
    comparison = compare([tmp_path])
    drawn = page_data(comparison)
    assert drawn.checkpoints == ("bag_of_words", "pretrained") and drawn.reducers.empty
    assert '<button type="button">reducer</button>' not in page(comparison)


@pytest.mark.slow
def test_a_hundred_runs_stay_small(tmp_path):
    layers = [f"block{i // 6}.{i % 6}.conv" for i in range(24)]
    checkpoints = [("initial", 0), *((f"epoch_{i}", 25 * i) for i in (1, 2, 3)), ("final", 100)]
    made_runs.write_sweep(tmp_path, 100, layers=layers, checkpoints=checkpoints, l2=made_runs.L2, n_test=720)
    comparison = compare([tmp_path])
    html = page(comparison)
    assert len(html.encode()) < 4e6
    rows = content_of(html)["datasets"]["rows"].splitlines()
    assert len(rows) == 1 + 100 * 5 * 24


def test_rows_are_looked_up_once_for_neighbours_in_the_order_of_drawing(comparison):
    passes = {}
    for name, spec in linked_views(page_data(comparison)).items():
        compiled = vl_convert.vegalite_to_vega(spec | {"width": 500})["data"]
        passes[name] = sum(any(t["type"] == "lookup" for t in data.get("transform", [])) for data in compiled)
    # Of the curves: the means' band, the controls of the shown checkpoints and the untrained one, the means, the runs.
    assert passes == {"curves": 5, "best_layer": 0, "seed_mean": 1, "l2_path": 1, "layer_map": 1}


def check_valid(data):
    """Each view, as it is linked and alone, follows the schema of Vega-Lite."""
    linked = linked_views(data)
    for spec in (*linked.values(), *(single_view(data, name, 300, 200) for name in linked)):
        alt.TopLevelSpec.validate(spec)


def test_every_view_follows_the_schema(comparison):
    data = page_data(comparison)
    check_valid(data)
    spec = linked_views(data)["curves"]
    with pytest.raises(ValidationError):
        alt.TopLevelSpec.validate(spec | {"layer": [spec["layer"][0] | {"mark": "curve"}]})


def test_what_does_not_fit_is_left_out_and_named(comparison):
    whole = page_data(comparison)
    assert whole.left_out == ()
    assert len(whole.paths) == 6 * 3 * 4
    small = page_data(comparison, path_budget=800)
    assert set(small.paths["checkpoint"]) == {2}
    assert f"Of 72 L2 paths, {len(small.paths)} are shown" in small.left_out[0]
    packed, left_out = correct_bits(comparison, whole)
    assert (len(packed), left_out) == (6, [])
    some, left_out = correct_bits(comparison, whole, budget=sum(len(p["bits"]) for p in packed) // 4)
    assert 0 < len(some) < 6
    assert f"Of 6 runs, {len(some)} can be compared" in left_out[0]


def test_many_checkpoints_are_thinned_from_first_to_last(tmp_path):
    checkpoints = [("initial", 0), *((f"step_{i}", i) for i in range(1, 40)), ("final", 40)]
    made_runs.write_run(tmp_path, checkpoints=checkpoints)
    found = page_data(compare([tmp_path]))
    assert len(found.checkpoints) == 12
    assert found.checkpoints[0] == "initial"
    assert found.checkpoints[-1] == "final"
    assert "Of 41 checkpoints, 12 are shown" in found.left_out[0]


def test_a_depth_has_a_name_only_where_all_networks_agree(tmp_path):
    made_runs.write_run(tmp_path / "a")
    made_runs.write_run(tmp_path / "b", layers=("input", "other"), seed=1)
    found = page_data(compare([tmp_path]))
    assert not found.same_layers
    assert found.layers["position"].tolist() == found.layers["depth"].tolist()
    assert "depth (place in the order of execution)" in page(compare([tmp_path]))


def test_one_run_and_runs_without_any_result_still_make_a_page(tmp_path, written):
    run = made_runs.write_run(tmp_path / "a")
    assert "1 run," in page(compare([run]))
    (run / "probes" / "results.parquet").unlink()
    (run / "probes" / "path.parquet").unlink()
    (run / "probes" / "correct.parquet").unlink()
    html = page(compare([run]))
    assert "no layer was probed" in html
    files = list(write_report(compare([run]), tmp_path / "out.html"))
    assert (tmp_path / "out_figures" / "curves.png") in files


def test_a_pair_that_is_not_there_is_named(comparison, tmp_path):
    with pytest.raises(ReportError, match="there is no run 'x'"):
        list(write_report(comparison, tmp_path / "out.html", pair=["x", comparison.names[0]]))
    with pytest.raises(ReportError, match="names 1 runs; expected two"):
        list(write_report(comparison, tmp_path / "out.html", pair=[comparison.names[0]]))


def test_the_heat_map_has_one_network_below_the_other(tmp_path):
    made_runs.write_run(tmp_path / "a")
    made_runs.write_run(tmp_path / "b", overrides={"model": "mlp"}, layers=("input", "fc1", "fc2"), seed=1)
    made_runs.write_run(tmp_path / "c", overrides={"model": "mlp"}, layers=("input", "fc1"), seed=2)  # ended early
    found = page_data(compare([tmp_path]))
    assert found.networks == (("convnet", made_runs.LAYERS), ("mlp", ("input", "fc1", "fc2")))
    assert found.runs["network"].tolist() == [0, 1, 1]
    assert list(row_labels(found).values()) == ["", "input", "conv1", "conv2", "fc", "", "input", "fc1", "fc2"]
    alone = page_data(compare([tmp_path / "b", tmp_path / "c"]))
    assert list(row_labels(alone).values()) == ["input", "fc1", "fc2"]


def test_layers_whose_names_are_numbers_have_rows_of_their_own(tmp_path):
    layers = [str(i) for i in range(40)]
    for name, own in (("a", layers), ("b", [*layers, "40"][1:])):
        made_runs.write_run(tmp_path / name, overrides={"model": name}, layers=own, checkpoints=[("final", 9)])
    rows = row_labels(page_data(compare([tmp_path])))
    assert list(rows.values()) == ["", "", *layers, "", "", *layers[1:], "40"]


def test_networks_of_one_name_are_told_apart(tmp_path):
    made_runs.write_run(tmp_path / "a", layers=("input", "fc"))
    made_runs.write_run(tmp_path / "b", layers=("input", "conv"))
    made_runs.write_run(tmp_path / "c", layers=("input", "conv", "head"))
    made_runs.write_run(tmp_path / "d", layers=("input", "a", "b", "c"))
    names = [network.name for network in page_data(compare([tmp_path])).networks]
    assert names == ["convnet (2 layers)", "convnet (3 layers)", "convnet (4 layers)"]


def axis_of_best_layer(tmp_path, values):
    for i, value in enumerate(values):
        made_runs.write_run(tmp_path / str(i), overrides={"model.width": value})
    spec = single_view(page_data(compare([tmp_path])), "best_layer", 330, 330)
    return spec["layer"][0]["encoding"]["x"]["axis"]["labelAngle"]["expr"]


def pixels_for_level_names(expression):
    return float(re.match(r'{"key0": ([0-9.]+), "name": [0-9.]+}\[swept\] <= width \? 0 : -30$', expression)[1])


def test_short_values_are_named_level_and_long_ones_slanted(tmp_path):
    assert pixels_for_level_names(axis_of_best_layer(tmp_path / "numbers", [16, 32, 64])) < 330
    long = axis_of_best_layer(tmp_path / "texts", [f"a_rather_long_name_{i}" for i in range(4)])
    assert pixels_for_level_names(long) > 330


def test_names_stand_in_the_markdown_summary_as_they_are(tmp_path):
    names = [
        "a|b", "`code`", "<img src=x onerror=alert(1)>", "**x** __y__ ~z~", "[link](http://x) ![p](y)",
        "two\nlines\n# head", "back\\|slash", "a_b_c", "&amp; @someone", "$x$",
    ]  # fmt: skip
    for i, name in enumerate(names):
        made_runs.write_run(tmp_path / str(i), overrides={"model.width": name, "seed": 0}, checkpoints=[("final", 9)])
    comparison = compare([tmp_path])
    html = (
        MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .render(markdown_summary(comparison, list(comparison.names)))
    )
    shown = [" ".join(name.split()) for name in comparison.names]
    cells = [escape(name, quote=False) for name in shown]
    rows = re.findall(r"<tr>\s*<td>(.*?)</td>", html)
    assert [unescape(row) for row in rows] == [unescape(cell) for cell in cells]
    assert [unescape(name) for name in re.findall(r"<li><strong>(.*?)</strong>", html)] == shown
    assert not re.search(r"<(img|code|em|a|s|h1)\b", html)


def test_runs_without_a_configuration_are_told_apart_by_their_records(tmp_path):
    for i, columns in enumerate([{}, {}, {"n_classes": 10}, {"task": "regression", "test_error": 1.4}]):
        shutil.rmtree(made_runs.write_run(tmp_path / str(i), seed=i, columns=columns) / ".hydra")
    shutil.rmtree(made_runs.write_run(tmp_path / "4", layers=("input", "other")) / ".hydra")
    comparison = compare([tmp_path])
    assert comparison.keys == ()
    kind = "400 test samples"
    assert comparison.problems == [f"3 classes, {kind}"] * 2 + [f"10 classes, {kind}", f"3 values, {kind}"] + [
        f"3 classes, {kind}"
    ]
    assert len(set(comparison.settings)) == 4
    assert comparison.settings[0] == comparison.settings[1]
    found = page_data(comparison)
    assert found.runs["network"].tolist() == [0, 0, 1, 2, 3]
    assert found.highest_error == float("inf")
    means = markdown_summary(comparison).split("### Mean over seeds, best layer")[1].split("###")[0]
    assert [line.split(" | ")[1] for line in means.strip().splitlines()[2:]] == ["2", "1", "1", "1"]


def test_seeds_of_one_problem_stay_repetitions(comparison, tmp_path):
    assert set(comparison.problems) == {""}
    for i in range(2):
        made_runs.write_run(tmp_path / str(i), overrides={"data": "d", "data.seed": i, "seed": i}, seed=i)
    found = compare([tmp_path])
    assert found.problems == ["", ""]
    assert found.settings == ["all runs"] * 2


def test_seeds_that_are_all_alike_have_no_interval_and_the_others_stay_shares(tmp_path):
    for name, errors in {"same": (0.0, 0.0), "wide": (0.0, 0.5)}.items():
        for seed, error in enumerate(errors):
            made_runs.write_run(
                tmp_path / f"{name}{seed}", overrides={"optimizer.lr": name, "seed": seed},
                columns={"test_error": error, "val_error": error},
            )  # fmt: skip
    text = markdown_summary(compare([tmp_path]))
    assert "| lr same | 2 | 0.00% | – |" in text
    assert "| lr wide | 2 | 25.00% | 0.00% to 100.00% |" in text
    assert "-0" not in text


def test_other_readers_have_a_view_where_a_run_has_them(tmp_path):
    run = made_runs.write_run(tmp_path / "run")
    assert "beyond_linear" not in view_names(page_data(compare([run])))
    rows = Run.read(run).results
    measured = [
        MetricRecord(row["checkpoint"], row["step"], row["epoch"], row["depth"], row["layer"], "knn", "test", *numbers)
        for row in rows.to_dict("records")
        for numbers in (("error", 60, 0.3), ("error_difference", 60, row["test_error"] - 0.3, -0.5, 0.5))
    ]
    table = pa.Table.from_pylist([asdict(one) for one in measured], schema(MetricRecord))
    pq.write_table(table, run / "probes" / "metrics.parquet")
    drawn = page_data(compare([run]))
    check_valid(drawn)
    assert "beyond_linear" in view_names(drawn)
    assert drawn.readers["difference"].tolist() == pytest.approx((drawn.rows["error"] - 0.3).tolist())
    assert "nearest neighbours" in vl_convert.vegalite_to_svg(single_view(drawn, "beyond_linear", 600, 300))


def test_a_reader_that_lacks_layers_has_its_name_at_the_nearest(tmp_path):
    run = made_runs.write_run(tmp_path / "run", layers=[f"block{i}" for i in range(9)])
    measured = [
        MetricRecord(row["checkpoint"], row["step"], row["epoch"], row["depth"], row["layer"], "knn", "test", *numbers)
        for row in Run.read(run).results.to_dict("records")
        for numbers in (("error", 60, 0.3), ("error_difference", 60, 0.1, -0.5, 0.5))
        if row["depth"] in (0, 5, 8)
    ]
    pq.write_table(to_table(measured, MetricRecord), run / "probes" / "metrics.parquet")
    drawing = vl_convert.vegalite_to_svg(single_view(page_data(compare([run])), "curves", 600, 300))
    assert drawing.count(">nearest neighbours<") == 1


def test_means_say_what_they_are_means_of(tmp_path):
    spec = json.dumps(single_view(page_data(compare([made_runs.write_sweep(tmp_path, 15)])), "curves", 600, 300))
    assert '"mean test error"' not in spec, "whatever is drawn"
    assert '"field": "mean_text", "title": "mean"' in spec
    assert "measure_names[measure] + ' ' + datum.error_text" in spec


def test_a_layer_is_chosen_only_where_its_path_is_drawn(tmp_path):
    for name, l2 in (("one", [1e-3]), ("several", [1e-4, 1e-3])):
        data = page_data(compare([made_runs.write_run(tmp_path / name, l2=l2)]))
        shown = "l2_path" in view_names(data)
        assert shown == (name == "several")
        assert shown == ("layer" in {picker.name for picker in pickers(data)})


@pytest.mark.parametrize("others", [(), [("final", 100)]])
def test_a_run_that_has_not_been_trained_does_not_show_all_runs_untrained(tmp_path, others):
    made_runs.write_run(tmp_path / "begun", checkpoints=[("initial", 0)])
    made_runs.write_run(tmp_path / "other", checkpoints=[("initial", 0), *others], overrides={"seed": 1})
    ticked = {picker.label: picker.value for picker in pickers(page_data(compare([tmp_path])))}
    names = [name for name in ("initial", "final") if ticked.get(name)]
    assert names == (["final"] if others else ["initial"])


def words_in(spec):
    """The texts of a picture with their angles: what a reader can read."""
    nodes = [node for node in ET.fromstring(vl_convert.vegalite_to_svg(spec)).iter() if node.tag.endswith("text")]
    return {node.text: "rotate(-90)" in node.attrib.get("transform", "") for node in nodes if node.text}


def test_names_of_deep_layers_tell_them_apart_where_there_is_little_room(tmp_path):
    blocks = [f"features.block{i}.denselayer{j}.norm{k}" for i in range(6) for j in range(10) for k in (1, 2)]
    checkpoints = [(f"step_{100 * i}", 100 * i) for i in range(12)]
    made_runs.write_run(tmp_path, layers=["input", *blocks, "classifier"], checkpoints=checkpoints)
    found = page_data(compare([tmp_path]))
    rows = list(row_labels(found).values())
    assert len(set(rows)) == len(rows) == 122
    assert max(map(len, rows)) <= 24
    curves = words_in(single_view(found, "curves", 240, 200))
    assert curves["input"] and curves["classifier"], "the first layer and the last"
    assert set(curves) & set(rows) > {"input", "classifier"}
    narrow, wide = (words_in(single_view(found, "layer_map", width, 300)) for width in (200, 1200))
    assert [narrow[name] for name, _ in checkpoints] == [True] * 12, "upright, and not over one another"
    assert [wide[name] for name, _ in checkpoints] == [False] * 12


def test_one_run_needs_no_legend_and_a_title_names_few_checkpoints(tmp_path):
    checkpoints = [("initial", 0), *((f"epoch_{i}", i) for i in range(1, 5)), ("final", 5)]
    made_runs.write_run(tmp_path, overrides={"experiment": "alone"}, checkpoints=checkpoints)
    spec = single_view(page_data(compare([tmp_path])), "curves", 500, 200)
    words = words_in(spec)
    assert "alone" not in words
    assert "Test error over depth at final" in words
    for parameter in spec["params"]:
        if parameter["name"].startswith("checkpoint_"):
            parameter["value"] = True
    assert "Test error over depth at 6 checkpoints" in words_in(spec)


def test_a_column_of_notes_is_there_for_those_who_have_one(comparison, tmp_path):
    assert '<button type="button">notes</button>' not in page(comparison)
    made_runs.write_run(tmp_path / "a")
    made_runs.write_run(tmp_path / "b", overrides={"seed": 1}, status="failed")
    html = page(compare([tmp_path]))
    assert '<button type="button">notes</button>' in html
    assert ">boom</td>" in html


def test_the_best_layer_is_drawn_over_another_key_than_the_one_that_colours(comparison):
    chosen = {picker.name: picker.value for picker in pickers(page_data(comparison))}
    assert (chosen["colour"], chosen["swept"]) == ("key0", "key1")


def test_a_report_reads_each_table_of_a_run_once(tmp_path, monkeypatch):
    made_runs.write_sweep(tmp_path / "runs", 3)
    read = Counter()

    def counted(file):
        read[file] += 1
        return read_parquet(file)

    monkeypatch.setattr("layerprobe.results.tables_of_any_version.read_parquet", counted)
    assert list(write_report(compare([tmp_path / "runs"]), tmp_path / "report.html"))
    assert {file.name for file in read} == {"results.parquet", "path.parquet", "correct.parquet"}
    assert set(read.values()) == {1}
