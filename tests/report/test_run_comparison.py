"""Runs side by side, also those that went wrong."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from helpers import made_results as made
from helpers import made_runs
from helpers.compared import compare_layers
from layerprobe.formatting import count_text
from layerprobe.report.config_differences import differing_keys, ordered_values, short_keys
from layerprobe.report.dataset_identity import sample_counts
from layerprobe.report.difference import compare_runs, difference_sentence
from layerprobe.report.markdown import markdown_summary
from layerprobe.report.monotonicity import depth_sentence
from layerprobe.report.run_comparison import ReportError, compare, side_by_side
from layerprobe.report.significance import holm, mcnemar_p, two_sample_p
from layerprobe.results.reader import Run
from layerprobe.results.run_summary import RunSummary
from layerprobe.results.store import ProbeStore
from layerprobe.statistics.intervals import newcombe_interval


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return made_runs.write_sweep(tmp_path_factory.mktemp("sweep"), 12)


def test_only_what_differs_is_kept_overrides_first_and_the_seed_last():
    configs = [
        {"data.seed": s, "seed": s, "optimizer.lr": lr, "optimizer": "adam", "trainer.max_epochs": 5, "scheduler.T": lr}
        for s in (0, 1)
        for lr in (0.1, 0.2)
    ]
    assert differing_keys(configs) == ["optimizer.lr", "seed"]
    assert differing_keys(configs, ["scheduler.T"]) == ["scheduler.T", "seed"]
    assert differing_keys(configs[:1]) == []
    assert differing_keys([{"a": 1}, {}]) == ["a"]


def test_what_a_choice_brings_along_says_nothing_more():
    brought = {"cities": ("label", "city"), "stsa": ("label", None), "coinflip": ("answer", None)}
    configs = [
        {"data": data, "data.label": label, "data.group": group, "data.noise": noise, "model.width": width}
        for width, (data, (label, group)) in zip((1, 1, 2), brought.items(), strict=True)
        for noise in ("[]", "[aaa]")
    ]
    assert differing_keys(configs) == ["data", "data.noise", "model.width"]
    assert "data.group" in differing_keys(configs, ["data.group"]), "it was chosen"


def test_a_sweep_over_lists_of_a_group_is_told_apart_by_the_lists(tmp_path):
    for i, (name, kind) in enumerate((("average_pool", "AveragePool"), ("flatten", "Flatten"))):
        made_runs.write_run(tmp_path / str(i), overrides={f"probe.reducers.{name}._target_": f"layerprobe.{kind}"})
        file = tmp_path / str(i) / ".hydra" / "hydra.yaml"
        content = yaml.safe_load(file.read_text())
        content["hydra"]["overrides"]["task"] = [f"reducer=[{name}]"]
        file.write_text(yaml.safe_dump(content))
        RunSummary("done", [f"reducer=[{name}]"]).write(tmp_path / str(i))
    comparison = compare([tmp_path])
    assert comparison.keys == ("reducer",)
    assert comparison.names == ("reducer=[average_pool]", "reducer=[flatten]")


def test_numbers_of_jobs_are_no_names_where_the_configuration_tells_runs_apart(tmp_path):
    for i, data in enumerate(("cities", "stsa")):
        made_runs.write_run(tmp_path / str(i), overrides={"data": data, "experiment": None})
    assert compare([tmp_path]).names == ("data=cities", "data=stsa")


def test_values_are_ordered_as_numbers_and_keys_stay_apart():
    assert ordered_values([10, 9, 0.5, None, "x", 9]) == ["0.5", "9", "10", "x", "–"]
    assert short_keys(["model.width", "optimizer.lr", "scheduler.lr", "seed", "a.seed"]) == {
        "model.width": "width", "optimizer.lr": "optimizer.lr", "scheduler.lr": "scheduler.lr", "seed": "seed",
        "a.seed": "a.seed",
    }  # fmt: skip


def test_table_of_runs_has_the_layer_that_validation_prefers(sweep):
    comparison = compare([sweep])
    assert comparison.keys == ("model.width", "optimizer.lr", "seed")
    table = comparison.table()
    assert table["run"].is_unique
    assert table["run"].iloc[0] == "width=16 lr=0.001 seed=0"
    for row, run in zip(table.to_dict("records"), comparison.runs, strict=True):
        final = run.results[run.results["checkpoint"] == "final"]
        best = final.loc[final["val_error"].idxmin()]
        assert (row["best_layer"], row["test_error"]) == (best["layer"], best["test_error"])
        assert row["n_checkpoints"] == 3


def test_joined_rows_are_the_records(sweep):
    comparison = compare([sweep])
    joined = comparison.joined()
    assert len(joined) == 12 * 3 * 4
    assert joined["test_error"].tolist() == [e for run in comparison.runs for e in run.results["test_error"]]
    assert set(joined["model.width"]) == {16, 32}
    assert "probe_seed" in joined
    assert joined["seed"].nunique() == 2


@pytest.mark.parametrize(
    ("where", "runs"),
    [
        ("seed == 0", 6),
        ("optimizer.lr < 0.05 and model.width == 16", 4),
        ("model == 'convnet' and seed < 1", 6),
        ("status != 'done'", 0),
        ("`optimizer.lr` == 0.1", 4),
        ("test_error < 1", 12),
        ("0 <= seed < 1 | ~(model.width == 16)", 9),
        ("model.width / 2 > 8 and seed in [0, 1]", 6),
        ("model.width in (16, 64) and not (experiment == 'a@b`c.d')", 6),
    ],
)
def test_conditions(sweep, where, runs):
    if runs:
        assert len(compare([sweep], where).runs) == runs
        return
    with pytest.raises(ReportError, match="leaves none of 12 runs: status is done"):
        compare([sweep], where)


@pytest.mark.parametrize(
    "where",
    [
        "@pd.io.common.os.system('touch hole') == 0",
        "@Path('hole').write_text('x') == 1",
        "run.to_csv('hole') == 1",
        "`run`.to_csv('hole') == 1",
        "(run).to_csv('hole') == 1",
        "[run][0].to_csv('hole') == 1",
        "run . to_csv('hole') == 1",
        "`run.to_csv('hole')` == 1",
        "seed == `@Path('hole').write_text('x')`",
        "run.__class__.__name__ == 'Series'",
        "('{0.__class__}').format(run) == ''",
        "(lambda: 1)() == 1",
        "[x for x in run] == 1",
        "(x := run) == 1",
        "run == f'{run.to_csv(1)}'",
        "index == 0; seed == 0",
        "x = seed",
        "sin(seed) == 0",
        "seed == 9**9**9**9",
        "'a' * 10000000000 == run",
        "seed\n.to_csv('hole') == 1",
        "seed == 0 # comment",
        "run == b'x'",
        "(" * 5000 + "seed" + ")" * 5000,
    ],
)
def test_a_condition_reaches_nothing_but_the_values_of_the_runs(sweep, tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReportError, match=r"cannot be understood.*Next step"):
        compare([sweep], where)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "where", ["sed == 0", "seed ==", "seed < 'x'", "__import__('os')", "seed", "not seed", "seed - 1"]
)
def test_a_condition_that_cannot_be_understood_says_so(sweep, where):
    with pytest.raises(ReportError, match=r"cannot be understood.*Next step"):
        compare([sweep], where)


def test_no_runs_says_where_was_looked(tmp_path):
    with pytest.raises(ReportError, match=r"does not exist.*Next step"):
        compare([tmp_path / "absent"])
    with pytest.raises(ReportError, match=r"hold no `probes/results.parquet`"):
        compare([tmp_path])


def test_runs_of_one_name_are_told_apart_by_their_directories(tmp_path):
    for name in ("a/same", "b/same", "c/other"):
        made_runs.write_run(tmp_path / name)
    names = compare([tmp_path]).names
    assert len(set(names)) == 3
    assert names[0].endswith("a/same")
    assert names[1].endswith("b/same")


def test_an_unfinished_checkpoint_is_marked_and_the_best_layer_comes_from_a_whole_one(tmp_path):
    store = ProbeStore(tmp_path / "killed" / "probes")
    for depth, layer in enumerate(("input", "fc")):
        store.add(made.result("initial", 0, depth, layer))
    store.merge()
    store.add(made.result("final", 100, 0, "input"))
    made_runs.write_run(tmp_path / "whole")
    table = compare([tmp_path]).table().set_index("status")
    assert table.loc["unfinished", "checkpoint"] == "initial"
    assert table.loc["unfinished", "best_layer"] == "fc"
    assert table.loc["unfinished", "notes"] == "ended while final was probed"
    assert table.loc["unfinished", "n_checkpoints"] == 2
    assert table.loc["done", "notes"] == ""


def test_a_failed_run_without_results_stays_in_the_table(tmp_path):
    made_runs.write_run(tmp_path / "a")
    shutil.rmtree(made_runs.write_run(tmp_path / "b", status="failed", seed=1) / "probes")
    comparison = compare([tmp_path])
    row = comparison.table().iloc[1]
    assert (row["status"], row["error"], row["notes"], row["best_layer"]) == (
        "failed",
        "boom",
        "no layer was probed",
        "",
    )
    assert len(comparison.joined()) == 12
    assert depth_sentence(comparison.runs[1]) == "No layer was probed."


def test_depth_in_words_agrees_with_the_records(tmp_path):
    errors = [0.5, 0.3, 0.35, 0.2, 0.4]
    for i, error in enumerate(errors):
        ends = {"test_error_low": error - 0.04, "test_error_high": error + 0.04}
        chosen = {"val_error": 0.1 if i == 1 else error}
        ProbeStore(tmp_path / "probes").add(made.result(depth=i, layer=f"l{i}", test_error=error, **ends, **chosen))
    ProbeStore(tmp_path / "probes").merge()
    # Validation prefers l1, though another one has the lowest test error.
    assert depth_sentence(Run.read(tmp_path)) == (
        "At final the test error goes from 50.00% (l0) to 40.00% (l4); validation prefers l1 (30.00%). It rises 2 "
        "times, at most by 20.00 points (l3 to l4); beyond the 95% intervals: l3 to l4 (+20.00)."
    )


def test_errors_without_intervals_are_not_said_to_stay_inside_them(tmp_path):
    nan = float("nan")
    store = ProbeStore(tmp_path / "probes")
    for i, error in enumerate([0.0, 0.25, 0.25]):
        ends = {"test_error_low": nan, "test_error_high": nan} if i < 2 else {}
        store.add(made.result(depth=i, layer=f"l{i}", test_error=error, val_error=error, **ends))
    words = depth_sentence(Run.read(tmp_path))
    assert words.endswith("at most by 25.00 points (l0 to l1) (no interval, so nothing is said of chance).")
    text = markdown_summary(compare([tmp_path]))
    assert "| l0 (final) | 0.00% | – |" in text
    assert "nan" not in text


def test_two_runs_by_a_plain_count(tmp_path):
    runs = [
        Run.read(
            made_runs.write_run(tmp_path / str(i), seed=i, shift=0.15 * i, overrides={"data": "d", "data.seed": i})
        )
        for i in range(2)
    ]
    table = compare_runs(*runs, "final")
    right = [
        pd.read_parquet(run.directory / "probes" / "correct.parquet").set_index(["checkpoint", "layer"])["correct"]
        for run in runs
    ]
    assert table["layer"].tolist() == list(made_runs.LAYERS)
    p = []
    for row in table.itertuples():
        first, second = (np.asarray(side["final", row.layer]) for side in right)
        b = sum(bool(x and not y) for x, y in zip(first, second, strict=True))
        c = sum(bool(y and not x) for x, y in zip(first, second, strict=True))
        assert (row.only_first, row.only_second) == (b, c)
        assert row.first_error == pytest.approx(1 - first.mean())
        p.append(mcnemar_p(int(b), int(c)))
    assert table["p"].tolist() == p
    assert table["p_holm"].tolist() == holm(p)
    assert table["differs"].all()
    assert "differ at 4 of 4 layers" in difference_sentence(table, "a", "b")


def test_a_run_does_not_differ_from_its_copy(tmp_path):
    run = Run.read(made_runs.write_run(tmp_path / "a"))
    table = compare_runs(run, run, "final")
    assert not table["differs"].any()
    assert "no difference shown at any of 4 layers" in difference_sentence(table, "a", "b")
    assert (table["low"] < 0).all()
    assert (table["high"] > 0).all()


def _without_fingerprints(run):
    file = run.directory / "probes" / "correct.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["samples"]), file)
    return run


def test_runs_on_other_test_samples_are_compared_as_independent_ones_and_it_is_said(tmp_path):
    # The same configuration: only the fingerprints say that a seed has drawn two splits.
    runs = [Run.read(made_runs.write_run(tmp_path / f"{i}", seed=i, samples=str(i), shift=0.3 * i)) for i in range(2)]
    table = compare_runs(*runs, "final")
    assert (table["samples"] == "other").all()
    assert table["only_first"].isna().all()
    for row in table.itertuples():
        wrong = [round(400 * error) for error in (row.first_error, row.second_error)]
        assert row.p == two_sample_p(wrong[0], 400, wrong[1], 400)
        assert (row.low, row.high) == newcombe_interval(wrong[0], 400, wrong[1], 400)
    words = difference_sentence(table, "a", "b")
    assert "differ at 4 of 4 layers (Pearson's test" in words
    assert words.endswith("tested on other samples, so they are compared as independent ones, not in pairs.")
    sizes = [Run.read(made_runs.write_run(tmp_path / f"n{n}", n_test=n)) for n in (100, 200)]
    assert (compare_runs(*sizes, "final")["samples"] == "other").all()


def test_without_fingerprints_it_cannot_be_known_whether_the_samples_are_the_same(tmp_path):
    old, new = (Run.read(made_runs.write_run(tmp_path / f"{i}", seed=i)) for i in range(2))
    assert (compare_runs(old, new, "final")["samples"] == "same").all()
    _without_fingerprints(old)
    for pair in ((old, new), (new, old)):
        table = compare_runs(*pair, "final")
        assert (table["samples"] == "unknown").all()
        assert "cannot be known" in difference_sentence(table, "a", "b")
    assert (compare_runs(old, old, "initial", "final")["samples"] == "unknown").all()
    assert (compare_layers(old, "final", "input")["samples"] == "same").all()


def test_eight_samples_show_no_difference_and_do_not_say_that_there_is_none(tmp_path):
    runs = [Run.read(made_runs.write_run(tmp_path / f"{i}", seed=i, n_test=8)) for i in range(2)]
    table = compare_runs(*runs, "final")
    assert "no difference shown at any of 4 layers" in difference_sentence(table, "a", "b")
    assert (table["high"] - table["low"] > 0.3).all()


def test_runs_without_a_common_layer_are_not_compared(tmp_path):
    runs = [Run.read(made_runs.write_run(tmp_path / layer, layers=[layer])) for layer in ("a", "b")]
    assert compare_runs(*runs, "final").empty
    assert "cannot be compared" in difference_sentence(compare_runs(*runs, "final"), "a", "b")


def test_one_layer_against_the_others(tmp_path):
    run = Run.read(made_runs.write_run(tmp_path / "a"))
    table = compare_layers(run, "initial", "input")
    assert table["layer"].tolist() == ["conv1", "conv2", "fc"]
    assert table["differs"].iloc[-1]
    assert compare_layers(run, "initial", "absent").empty


def test_columns_of_another_version_do_not_stop_a_comparison(tmp_path):
    directories = [made_runs.write_run(tmp_path / str(i), seed=i) for i in range(2)]
    file = directories[0] / "probes" / "results.parquet"
    table = pq.read_table(file).drop_columns(["test_f1", "seed", "selectivity"])
    pq.write_table(table.append_column("novel", [[0.5] * len(table)]), file)
    comparison = side_by_side([Run.read(Path(d)) for d in directories])
    joined = comparison.joined()
    assert joined["novel"].notna().sum() == 12
    assert "without" in comparison.table()["notes"].iloc[0]


def test_a_flat_curve_is_said_to_be_flat(tmp_path):
    made_runs.write_run(tmp_path / "test", columns={"test_error": 0.25})
    assert depth_sentence(Run.read(tmp_path / "test")) == "At final the test error is 25.00% at every layer."
    made_runs.write_run(tmp_path / "validation", columns={"val_error": 0.25})
    assert "; on validation all layers have the same error." in depth_sentence(Run.read(tmp_path / "validation"))


def test_counts_of_a_problem_are_singular_where_they_are_one():
    assert [count_text(n, "class") for n in (1, 2)] == ["1 class", "2 classes"]
    assert [count_text(n, "test sample") for n in (1, 2000)] == ["1 test sample", "2,000 test samples"]
    results = pd.DataFrame({"task": ["regression"], "n_classes": [1], "n_train": [1], "n_test": [2]})
    run = Run(Path("run"), "done", "", {}, (), results)
    assert sample_counts(run, "train", "test") == "1 value, 1 train sample, 2 test samples"
