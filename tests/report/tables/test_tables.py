import io

import pandas as pd
import pytest
from rich.console import Console

from helpers import made_results as made
from layerprobe.report.charts.depth_curve import depth_curve
from layerprobe.report.picture_files import save
from layerprobe.report.tables.jobs_table import jobs_table
from layerprobe.report.tables.results_table import results_table
from layerprobe.report.tables.sweep_table import sweep_table
from layerprobe.results.arrow_tables import to_frame

CHECKPOINTS = [("initial", 0), ("final", 100)]


def printed(table, width=140):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def line_with(text, word):
    (line,) = [line for line in text.splitlines() if word in line]
    return line.split()


def test_a_line_for_each_layer_with_the_errors_of_each_checkpoint():
    layers = ["input", "conv[1]", "fc"]
    text = printed(results_table(made.results(layers, CHECKPOINTS), width=140))
    header = line_with(text, "depth")
    assert header == ["depth", "layer", "kind", "shape", "features", "initial", "final", "l2", "status"]
    line = line_with(text, "conv[1]")
    assert line[:3] == ["1", "conv[1]", "Conv2d"]
    assert line[4:7] == ["128", "→", "64"]
    assert line[7:11] == ["37.0", "±7.4", "18.5", "±3.7"]
    assert line[11:] == ["1e-03", "ok"]
    assert "majority class 60.0%" in text


def test_what_failed_says_so_and_where():
    rows = [
        made.record("initial", 0, 1, "conv"),
        made.failed("final", 100, 1, "conv"),
        made.failed("final", 100, 2, "fc"),
    ]
    text = printed(results_table(to_frame(rows)))
    assert "final: failed" in text
    assert line_with(text, "fc")[-1] == "failed"


def test_many_layers_make_a_compact_table_that_keeps_the_ends_the_best_and_the_failed():
    layers = [f"layer{i}" for i in range(130)]
    rows = [made.record("final", 100, i, name, val_error=0.01 if i == 71 else 0.3) for i, name in enumerate(layers)]
    rows[33] = made.failed("final", 100, 33, "layer33")
    text = printed(results_table(to_frame(rows), rows=10))
    shown = [name for name in layers if f" {name} " in text]
    assert {"layer0", "layer33", "layer71", "layer129"} <= set(shown)
    assert len(shown) == 12
    assert "kind" not in text
    assert "12 of 130 layers" in " ".join(text.split())


def test_a_narrow_terminal_gets_the_errors_in_full():
    text = printed(results_table(made.results(["input", "conv1_preact"], CHECKPOINTS), width=80), width=80)
    assert line_with(text, "depth") == ["depth", "layer", "initial", "final", "l2", "status"]
    marked = ["1", "conv1_preact", "37.0", "±7.4", "*", "18.5", "±3.7", "*", "1e-03", "ok"]
    assert line_with(text, "conv1_preact") == marked
    six = [("initial", 0), *((f"epoch_{i}", 20 * i) for i in range(1, 5)), ("final", 100)]
    text = printed(results_table(made.results(["input", "a_rather_long_name_of_a_layer"], six), width=80), width=80)
    assert line_with(text, "depth") == ["depth", "layer", "initial", "final", "l2", "status"]
    assert "2 of 6 checkpoints" in " ".join(text.split())
    assert "…" not in text


def test_every_layer_of_a_resnet_has_its_line_and_what_is_preferred_its_star():
    layers = [f"layer{i}" for i in range(61)]
    text = printed(results_table(made.results(layers, CHECKPOINTS)))
    assert all(f" {name} " in text for name in layers)
    assert "of 61 layers" not in text
    assert [line.split()[1] for line in text.splitlines() if " * " in line] == ["layer60"]
    assert "*: preferred by validation" in text


def test_a_choice_between_reducers_is_a_column():
    frame = made.results(["input", "fc"], CHECKPOINTS)
    assert "reducer" not in printed(results_table(frame))
    frame.loc[frame["layer"] == "fc", "reducer"] = "flatten"
    text = printed(results_table(frame))
    assert line_with(text, "depth")[-3:] == ["reducer", "l2", "status"]
    assert line_with(text, " fc ")[-3:] == ["flatten", "1e-03", "ok"]


def test_checkpoints_beyond_six_are_left_out_evenly():
    frame = made.results(["input"], [(f"e{i:02d}", i) for i in range(20)])
    header = line_with(printed(results_table(frame, width=140)), "depth")
    assert [name for name in header if name.startswith("e")] == ["e00", "e04", "e08", "e11", "e15", "e19"]


def test_an_empty_run_has_an_empty_table():
    assert "depth" in printed(results_table(to_frame([])))


def jobs():
    rows = []
    for width, solved in (("2", 2), ("8", 9)):
        for seed in range(10):
            status = "failed" if (width, seed) == ("8", 9) else "done"
            row = {"model.width": width, "seed": str(seed), "experiment": "xor_mlp", "status": status}
            rows.append(
                row | {"test/success": float(seed < solved), "val_loss": seed / 10, "directory": "x", "error": ""}
            )
    frame = pd.DataFrame(rows)
    frame.loc[frame["status"] == "failed", ["test/success", "val_loss"]] = float("nan")
    return frame


def test_a_sweep_is_averaged_over_seeds():
    text = printed(sweep_table(jobs()))
    assert line_with(text, "model.width") == ["model.width", "jobs", "failed", "test/success", "val_loss"]
    assert line_with(text, " 2 ") == ["2", "10", "20%", "[6%,", "51%]", "0.45", "±0.22"]
    assert line_with(text, " 8 ") == ["8", "10", "1", "100%", "[70%,", "100%]", "0.4", "±0.21"]


def test_a_narrow_terminal_breaks_names_and_no_value():
    metrics = {"test/loss": 2.2813, "test/error": 0.86174, "probe/best_layer_test_error": 0.0375}
    jobs = pd.DataFrame(
        [
            {"model.width": str(width), "optimizer.lr": "0.001", "seed": str(seed), "status": "done"}
            | {name: value + 0.01 * seed for name, value in metrics.items()}
            for width in (64, 128)
            for seed in range(3)
        ]
    )
    text = printed(sweep_table(jobs), width=72)
    assert "…" not in text
    assert line_with(text, " 128 ") == ["128", "3", "2.291", "±0.025", "0.8717", "±0.025", "0.0475", "±0.025"]


@pytest.mark.parametrize("width", [72, 80])
def test_a_narrow_terminal_breaks_no_word_and_cuts_no_table(width):
    metrics = {"test/loss": 1.1, "test/error": 0.06, "probe/best_layer_test_error": 0.0194}
    jobs = pd.DataFrame(
        [
            {"optimizer.lr": lr, "model": model, "seed": str(seed), "status": status, "best_layer": "conv2_postact"}
            | {"directory": f"/multirun/digits/2026-01-02_03-04-05/{model}{lr}{seed}"[:45], "error": error}
            | {name: value + seed for name, value in metrics.items()}
            for lr in ("1e-3", "3e-3")
            for model, status, error in (
                ("digits_convnet", "done", ""),
                ("mnist_convnet", "failed", "ValueError: the network has no layers of granularity 'blocks'"),
            )
            for seed in range(3)
        ]
    )
    for table in (sweep_table(jobs, width=width), jobs_table(jobs, width=width)):
        text = printed(table, width=width)
        assert "…" not in text
        words = {word for word in printed(table, width=1000).split() if "─" not in word}
        assert words == {word for word in text.split() if "─" not in word}
    text = printed(sweep_table(jobs, width=width), width=width)
    assert "optimizer." in text.split() and "more metric" in text
    text = printed(jobs_table(jobs, width=width), width=width)
    assert "model=digits_convnet" in text and "conv2_postact" in text
    assert text.count("ValueError: the network has no layers of granularity 'blocks'") == 6


def test_one_job_has_no_interval():
    frame = jobs().iloc[[0, 10]].drop(columns=["test/success"])
    text = printed(sweep_table(frame))
    assert line_with(text, "model.width") == ["model.width", "jobs", "val_loss"]
    assert line_with(text, " 8 ") == ["8", "1", "0"]
    assert printed(sweep_table(frame.drop(columns=["model.width"]))).count(" 2 ") == 1


def test_many_metrics_are_cut_with_a_note():
    frame = jobs().assign(**{f"train_{i}": 0.5 for i in range(6)})
    text = printed(sweep_table(frame, width=140))
    assert "3 more metrics in sweep.csv" in text
    assert "test/success" in text


def test_seeds_that_all_have_one_error_have_no_interval_and_rates_no_negative_zero():
    frame = pd.DataFrame(
        {
            "seed": ["0", "1"],
            "status": "done",
            "test/solved": [0.0, 0.0],
            "probe/best_layer_test_error": [0.0, 0.0],
            "test/acc": [1.0, 1.0],
        }
    )
    text = printed(sweep_table(frame))
    assert line_with(text, " 2 ") == ["2", "0%", "[0%,", "66%]", "1", "0"]


def test_intervals_that_end_at_0_or_are_missing():
    nan = float("nan")
    rows = [
        made.record(depth=0, layer="a", test_error=0.0, test_error_low=0.0, test_error_high=0.35),
        made.record(depth=1, layer="b", test_error=0.0, test_error_low=-5e-17, test_error_high=0.0035),
        made.record(depth=2, layer="c", test_error=0.25, test_error_low=nan, test_error_high=nan),
        made.record(depth=3, layer="d", test_error=1.0, test_error_low=0.65, test_error_high=1.0),
        made.record(depth=4, layer="e", test_error=0.2, test_error_low=0.1, test_error_high=0.31),
    ]
    text = printed(results_table(to_frame(rows), width=140))
    assert "nan" not in text
    assert "0.0 [0.0, 35.0]" in line_of(text, "a")
    assert "0.00 [0.00, 0.35]" in line_of(text, "b")
    assert line_of(text, "c").split()[6:9] == ["64", "25.00", "1e-03"]
    assert "100.0 [65.0, 100.0]" in line_of(text, "d")
    assert "20.0 ±10.5" in line_of(text, "e")


def test_an_error_that_has_no_meaning_is_no_failure():
    results = made.results(["input", "fc"], CHECKPOINTS)
    results.loc[results["layer"] == "fc", ["test_error", "test_error_low", "test_error_high"]] = float("nan")
    text = printed(results_table(results))
    assert "–" in line_with(text, "fc")
    assert "failed" not in line_with(text, "fc")


def line_of(text, layer):
    return next(line for line in text.splitlines() if line.split()[1:2] == [layer])


def test_each_checkpoint_with_data_of_its_own_has_its_majority(tmp_path):
    frame = to_frame([made.record("a", majority_error=0.3), made.record("b", majority_error=0.4)])
    assert "majority class 30.0% and 40.0%" in printed(results_table(frame))
    drawing = save(depth_curve(frame), tmp_path / "curve")[1].read_text()
    assert drawing.count(">majority class 30.0%<") == drawing.count(">majority class 40.0%<") == 1


def test_jobs_are_lines_of_a_terminal_and_name_their_folder_once():
    jobs = [
        {
            "directory": f"/somewhere/multirun/digits/2026-01-02_03-04-05/{i}", "status": "done",
            "best_layer": "conv1_postpool", "error": "", "seed": str(i), "probe/best_layer_test_error": 0.0125,
        }
        for i in range(3)
    ]  # fmt: skip
    lines = [line.split() for line in printed(jobs_table(pd.DataFrame(jobs)), width=80).splitlines()]
    assert [line for line in lines if line and line[0].startswith("seed=")] == [
        [f"seed={i}", "done", "conv1_postpool", "0.0125", str(i)] for i in range(3)
    ]
    assert ["Jobs", "in", "/somewhere/multirun/digits/2026-01-02_03-04-05"] in lines
