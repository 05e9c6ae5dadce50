"""Directories of runs, read whatever became of them."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from helpers import made_results as made
from helpers import made_runs
from layerprobe.results.arrow_tables import SchemaError, to_frame
from layerprobe.results.reader import Run, find_runs
from layerprobe.results.store import ProbeStore
from layerprobe.results.tables_of_any_version import read_any_version
from layerprobe.types import MetricRecord, PathRecord, ProbeRecord


@pytest.fixture
def directory(tmp_path):
    return made_runs.write_run(tmp_path / "runs" / "a", overrides={"model.width": 8})


def test_a_finished_run(directory):
    run = Run.read(directory)
    assert run.status == "done"
    assert run.notes == ()
    assert run.unmerged == frozenset()
    assert run.config["model.width"] == 8
    assert run.config["model"] == "convnet"
    assert "run_dir" not in run.config
    assert "name" not in run.config
    assert run.overrides == ("experiment", "model", "optimizer.lr", "seed", "model.width")
    expected = pd.read_parquet(directory / "probes" / "results.parquet")
    pd.testing.assert_frame_equal(run.results, expected)
    assert len(run.path()) == 3 * len(expected)
    assert len(run.correct()) == len(expected)


def test_who_changes_the_metrics_changes_their_own(directory):
    run = Run.read(directory)
    metrics = run.metrics()
    metrics["mine"] = 1
    assert "mine" not in run.metrics()


def test_a_run_that_was_killed_shows_what_it_had(tmp_path):
    store = ProbeStore(tmp_path / "probes")
    for depth, layer in enumerate(("input", "fc")):
        store.add(made.result("initial", 0, depth, layer))
    store.merge()
    store.add(made.result("final", 100, 0, "input"))
    run = Run.read(tmp_path)
    assert run.status == "unfinished"
    assert run.unmerged == {"final"}
    assert list(zip(run.results["checkpoint"], run.results["layer"], strict=True)) == [
        ("final", "input"), ("initial", "input"), ("initial", "fc"),
    ]  # fmt: skip
    pd.testing.assert_frame_equal(
        run.results.sort_values(["step", "depth"], ignore_index=True), store.results(), check_dtype=False
    )
    assert len(run.correct()) == 3
    assert len(run.path()) == 9


def test_a_run_that_goes_on_is_read_whole_whatever_it_merges_meanwhile(tmp_path):
    store, layers = ProbeStore(tmp_path / "probes"), 60
    store.add(made.result("initial", 0, 0, "layer_0"))

    def go_on() -> None:
        for i in range(1, layers):
            store.add(made.result("initial", 0, i, f"layer_{i}"))
            store.merge()

    seen = [0]
    with ThreadPoolExecutor(1) as other:
        going_on = other.submit(go_on)
        while not going_on.done():
            run = Run.read(tmp_path)
            counts = [len(run.results), run.path()["layer"].nunique(), run.correct()["layer"].nunique()]
            assert counts == sorted(counts), "what is read later has fewer layers"
            assert counts[0] >= seen[-1]
            seen.append(counts[-1])
        going_on.result()
    assert len(set(seen)) > 2
    assert len(Run.read(tmp_path).results) == layers


def test_a_layer_s_file_that_leads_nowhere_is_named(tmp_path):
    made_runs.write_run(tmp_path)
    part = tmp_path / "probes" / "parts" / "initial" / "gone.parquet"
    part.parent.mkdir(parents=True)
    part.symlink_to(tmp_path / "nowhere")
    run = Run.read(tmp_path)
    assert "gone.parquet" in run.notes[0]
    assert run.results.empty


def test_older_and_newer_columns_are_filled_and_kept(directory):
    file = directory / "probes" / "results.parquet"
    table = pq.read_table(file)
    older = table.drop_columns(["test_f1", "test_auc", "aliases"]).replace_schema_metadata({})
    pq.write_table(older.append_column("novel", [["x"] * len(table)]), file)
    run = Run.read(directory)
    assert run.results["test_f1"].isna().all()
    assert (run.results["aliases"] == "").all()
    assert (run.results["novel"] == "x").all()
    assert run.results["test_error"].tolist() == table.column("test_error").to_pylist()
    assert run.notes == ("written by another version, without aliases, test_f1, test_auc",)


def test_what_was_called_selectivity_before_there_was_a_control_task_is_left_out(directory):
    file = directory / "probes" / "results.parquet"
    table = pq.read_table(file)
    column = table.column_names.index("selectivity")
    table = table.set_column(column, "selectivity", [[0.5] * len(table)])
    pq.write_table(table, file)
    assert (Run.read(directory).results["selectivity"] == 0.5).all()
    pq.write_table(table.drop_columns(["control_error"]), file)
    run = Run.read(directory)
    assert run.results["selectivity"].isna().all()
    assert run.notes == ("written by another version, without control_error, selectivity",)


def _as_of(file: Path, version: int) -> None:
    """Let a table say that it was written under another schema."""
    table = pq.read_table(file)
    pq.write_table(
        table.replace_schema_metadata({**table.schema.metadata, b"layerprobe.schema": b"%d" % version}), file
    )


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize(
    ("task", "n_classes", "known"),
    [("classification", 10, False), ("classification", 2, True), ("multi_label", 10, True), ("regression", 3, True)],
)
def test_an_f1_over_classes_that_no_sample_has_is_left_out(tmp_path, task, n_classes, known, merged):
    store = ProbeStore(tmp_path / "probes")
    f1 = np.nan if task == "regression" else 0.5
    found = made.result("final", 3, 0, "input", task=task, n_classes=n_classes, test_f1=f1)
    rows = [MetricRecord("final", 3, 0, 0, "input", "selected", name, "f1", 9, 0.4, 0.3, 0.5) for name in ("test", "b")]
    rows.append(MetricRecord("final", 3, 0, 0, "input", "selected", "test", "macro_f1", 9, 0.2))
    store.add(replace(found, metrics=tuple(rows)))
    if merged:
        store.merge()
    run = Run.read(tmp_path)
    assert run.notes == ()
    assert run.results["test_f1"].tolist() == pytest.approx([f1], nan_ok=True)
    assert run.metrics()["value"].tolist() == [0.4, 0.4, 0.2] or task == "regression"
    for file in (tmp_path / "probes").rglob("*.parquet"):
        _as_of(file, 6)
    run = Run.read(tmp_path)
    if known:
        assert run.notes == ()
        assert run.results["test_f1"].tolist() == pytest.approx([f1], nan_ok=True)
        assert run.metrics()["value"].tolist() == [0.4, 0.4, 0.2] or task == "regression"
    else:
        assert run.notes == ("written by another version, without test_f1",)
        assert run.results["test_f1"].isna().all()
        assert run.metrics()["value"].fillna(-1).tolist() == [-1, -1, 0.2]
        with pytest.raises(SchemaError, match=r"was written under schema 6; .*probe its checkpoints again"):
            ProbeStore(tmp_path / "probes").results()


@pytest.mark.parametrize("content", [b"", b"PAR1 cut short", b"not parquet at all, but long enough to be read"])
def test_a_broken_file_is_named_and_leaves_the_other_runs_alone(directory, content):
    (directory / "probes" / "results.parquet").write_bytes(content)
    (directory / "probes" / "path.parquet").write_bytes(content)
    for file in (directory / "run.json", directory / ".copies" / "run.json"):
        file.write_text("{")
    run = Run.read(directory)
    assert run.results.empty
    assert run.path().empty
    assert run.status == "unfinished"
    assert any("run.json is damaged" in note for note in run.notes)
    assert any("results.parquet is damaged (not a readable Parquet file" in note for note in run.notes)


def test_text_that_is_not_utf_8_is_a_broken_file(directory):
    file = directory / "probes" / "results.parquet"
    pq.write_table(pq.read_table(file), file, compression="none", use_dictionary=False, write_statistics=False)
    content = file.read_bytes()
    assert b"initial" in content
    file.write_bytes(content.replace(b"initial", b"\xff" * 7))
    run = Run.read(directory)
    assert run.results.empty
    assert any("results.parquet is damaged (not a readable Parquet file" in note for note in run.notes)


def test_whatever_bytes_are_damaged_nothing_but_the_file_is_blamed(directory):
    file, random = directory / "probes" / "results.parquet", np.random.default_rng(0)
    content, said = file.read_bytes(), []
    for _ in range(400):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[random.integers(len(content), size=random.choice([1, 3, 20]))] = random.integers(256)
        file.write_bytes(damaged.tobytes())
        try:
            read_any_version(file, ProbeRecord)
        except SchemaError as error:
            said.append(str(error))
    assert len(said) > 100
    assert all(str(file) in one for one in said)


def test_a_file_of_something_else_is_refused(tmp_path):
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "results.parquet")
    with pytest.raises(SchemaError, match="lacks the columns checkpoint, depth, layer, test_error"):
        read_any_version(tmp_path / "results.parquet", ProbeRecord)


@pytest.mark.parametrize("kind", [ProbeRecord, PathRecord])
def test_a_missing_file_has_no_rows_but_all_columns(tmp_path, kind):
    rows, absent = read_any_version(tmp_path / "none.parquet", kind)
    expected = to_frame([], kind)
    assert rows.empty
    assert absent == []
    assert list(rows) == list(expected)
    assert rows.dtypes.map(str).tolist() == expected.dtypes.map(str).tolist()


def test_runs_are_found_once_in_the_order_of_their_numbers(tmp_path):
    for name in ("10", "9", "sub/1"):
        made_runs.write_run(tmp_path / "sweep" / name)
    (tmp_path / "sweep" / "9" / "checkpoints" / "probes" / "parts").mkdir(parents=True)
    found = find_runs([tmp_path / "sweep", tmp_path / "sweep" / "9", str(tmp_path / "sweep" / "[1-9]*")])
    assert [str(path.relative_to(tmp_path / "sweep")) for path in found] == ["9", "10", "sub/1"]
    assert find_runs([tmp_path / "nothing"]) == []
    assert find_runs([tmp_path / "sweep" / "9"]) == [tmp_path / "sweep" / "9"]


def test_a_directory_that_was_moved_reads_the_same(directory, tmp_path):
    before = Run.read(directory)
    moved = tmp_path / "elsewhere" / "b"
    shutil.move(directory, moved)
    after = Run.read(moved)
    assert after.config == before.config
    pd.testing.assert_frame_equal(after.results, before.results)


def test_a_run_that_failed_before_it_probed(tmp_path):
    directory = made_runs.write_run(tmp_path / "a", status="failed")
    shutil.rmtree(directory / "probes")
    run = Run.read(directory)
    assert (run.status, run.error) == ("failed", "boom")
    assert run.results.empty
    assert find_runs([tmp_path]) == [directory]


def test_links_are_followed_once_and_without_loops(tmp_path):
    real = made_runs.write_run(tmp_path / "elsewhere" / "run")
    outputs = tmp_path / "outputs"
    kept = made_runs.write_run(outputs / "z", seed=1)
    (outputs / "x").symlink_to(real)
    (outputs / "a_latest").symlink_to(kept)
    (outputs / "loop").symlink_to(outputs)
    (outputs / "gone").symlink_to(tmp_path / "nowhere")
    (outputs / "again").symlink_to(tmp_path / "elsewhere")
    for roots in ([outputs], [str(outputs / "*")], [tmp_path / "outputs", tmp_path / "elsewhere"]):
        assert sorted(path.resolve() for path in find_runs(roots)) == sorted([real, kept])
    assert kept in find_runs([outputs])
    assert find_runs([outputs / "x"]) == [outputs / "x"]


def test_a_head_is_found_by_the_names_of_checkpoint_and_layer(tmp_path):
    store = ProbeStore(tmp_path / "probes")
    for depth, layer in enumerate(("fc", "a fc", "fc/2")):
        store.add(made.result("epoch 1", 10, depth, layer))
    run = Run.read(tmp_path)
    for layer in ("fc", "a fc", "fc/2"):
        found, expected = run.head("epoch 1", layer), store.head("epoch 1", layer)
        assert found.keys() == expected.keys()
        assert all((found[name] == expected[name]).all() for name in found)
    with pytest.raises(KeyError, match="no head of layer '2' at checkpoint 'epoch 1'"):
        run.head("epoch 1", "2")
