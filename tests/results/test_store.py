import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

from helpers import made_results as made
from layerprobe.results.arrow_tables import SchemaError, to_frame
from layerprobe.results.heads import find_head
from layerprobe.results.store import ProbeStore, StoreError
from layerprobe.types import PathRecord

LAYERS = ["input", "block.0.conv#1", "odd/name: ü"]
CHECKPOINTS = [("initial", 0), ("epoch=1/step=50", 50), ("final", 100)]


def all_results():
    return [made.result(name, step, depth, layer) for name, step in CHECKPOINTS for depth, layer in enumerate(LAYERS)]


def filled(directory, merge_at=()):
    store = ProbeStore(directory)
    for i, result in enumerate(all_results()):
        store.add(result)
        if i in merge_at:
            store.merge()
    return store


def check_holds(store, results):
    pd.testing.assert_frame_equal(store.results(), to_frame([one.record for one in results]))
    pd.testing.assert_frame_equal(store.path(), to_frame([point for one in results for point in one.path], PathRecord))
    correct = store.correct()
    assert list(zip(correct["checkpoint"], correct["layer"], strict=True)) == [
        (one.record.checkpoint, one.record.layer) for one in results
    ]
    for found, one in zip(correct["correct"], results, strict=True):
        assert np.array_equal(np.asarray(found, dtype=bool), one.correct)


@pytest.mark.parametrize("merge_at", [(), (2,), (0, 4, 8), range(9)])
def test_what_is_added_is_there_before_and_after_merging_and_opening_again(tmp_path, merge_at):
    store = filled(tmp_path / "probes", merge_at)
    check_holds(store, all_results())
    check_holds(ProbeStore(store.directory), all_results())
    pd.testing.assert_frame_equal(made.read_frame(store.directory / "results.parquet"), store.results())
    store.merge()
    check_holds(ProbeStore(store.directory), all_results())
    pd.testing.assert_frame_equal(made.read_frame(store.directory / "path.parquet", PathRecord), store.path())
    assert len(pd.read_parquet(store.directory / "correct.parquet")) == 9
    assert not (store.directory / "parts").exists()


def test_csv_says_the_same(tmp_path):
    store = filled(tmp_path)
    found = pd.read_csv(tmp_path / "results.csv", keep_default_na=False, na_values=["nan"])
    pd.testing.assert_frame_equal(found, store.results(), check_dtype=False)


def test_opening_writes_nothing_and_is_empty(tmp_path):
    store = ProbeStore(tmp_path / "probes")
    assert store.results().empty
    assert store.path().empty
    assert store.correct().empty
    assert store.done("final") == set()
    store.merge()
    assert not store.directory.exists()


def test_results_are_on_disk_as_soon_as_they_are_added(tmp_path):
    store = ProbeStore(tmp_path)
    for i, result in enumerate(all_results(), start=1):
        store.add(result)
        assert len(made.read_frame(tmp_path / "results.parquet")) == i
        assert len(ProbeStore(tmp_path).path()) == 3 * i


def test_done_knows_layers_of_other_sessions_and_failed_ones(tmp_path):
    filled(tmp_path)
    again = ProbeStore(tmp_path)
    again.add(made.of(made.failed("final", 100, 3, "last")))
    assert again.done("final") == {*LAYERS, "last"}
    assert again.done("epoch=1/step=50") == set(LAYERS)
    assert again.done("nowhere") == set()


def test_rows_are_in_the_order_of_training_then_of_depth(tmp_path):
    store = ProbeStore(tmp_path)
    for name, step, depth in [
        ("final", 100, 2),
        ("final", 100, 0),
        ("epoch_2", 100, 1),
        ("initial", 0, 5),
        ("final", 100, 1),
    ]:
        store.add(made.result(name, step, depth, f"layer{depth}"))
    rows = list(zip(store.results()["checkpoint"], store.results()["depth"], strict=True))
    assert rows == [("initial", 5), ("final", 0), ("final", 1), ("final", 2), ("epoch_2", 1)]


@pytest.mark.parametrize("merged", [False, True])
def test_the_same_layer_again_replaces_its_rows_and_head(tmp_path, merged):
    store = filled(tmp_path, merge_at=(8,) if merged else ())
    newer = made.result("final", 100, 7, "input", test_error=0.123)
    store.add(newer)
    others = [one for one in all_results() if (one.record.checkpoint, one.record.layer) != ("final", "input")]
    check_holds(store, [*others, newer])
    store.merge()
    check_holds(ProbeStore(tmp_path), [*others, newer])
    assert np.array_equal(store.head("final", "input")["weight"], newer.head["weight"])
    assert sorted(file.name for file in (tmp_path / "heads" / "final").glob("*input*")) == ["007_input.safetensors"]


def test_heads_come_back_with_what_they_are(tmp_path):
    store = filled(tmp_path)
    for one in all_results():
        head = store.head(one.record.checkpoint, one.record.layer)
        assert head.keys() == one.head.keys()
        assert all(np.array_equal(head[name], one.head[name]) for name in head)
    with safe_open(find_head(tmp_path, "epoch=1/step=50", "odd/name: ü"), "numpy") as file:
        about = file.metadata()
    assert (about["checkpoint"], about["layer"], about["l2"]) == ("epoch=1/step=50", "odd/name: ü", "0.001")
    assert (about["solver"], about["reducer"]) == ("logistic", "average_pool")
    with pytest.raises(KeyError, match="layers probed: block"):
        store.head("final", "nothing")


def test_a_failed_layer_has_rows_and_no_head(tmp_path):
    store = ProbeStore(tmp_path)
    store.add(made.result(layer="conv"))
    store.add(made.of(made.failed(layer="conv")))
    store.merge()
    assert store.results()["status"].tolist() == ["failed"]
    assert store.path().empty
    assert [len(row) for row in store.correct()["correct"]] == [0]
    assert list((tmp_path / "heads").rglob("*.safetensors")) == []
    with pytest.raises(KeyError, match="failed layer has no head"):
        store.head("final", "conv")


def test_names_that_look_alike_stay_apart(tmp_path):
    store = ProbeStore(tmp_path)
    for depth, layer in enumerate(["a/b", "a_b", "a:b", "x" * 300, "x" * 299 + "y", ".hidden", ".."]):
        store.add(made.result(depth=depth, layer=layer))
    for checkpoint in ("a/b", "a_b"):
        store.add(made.result(checkpoint, 1, 0, "input"))
    assert len(ProbeStore(tmp_path).results()) == 9
    assert len(ProbeStore(tmp_path).path()) == 27
    assert len(list((tmp_path / "heads").rglob("*.safetensors"))) == 9


def test_a_merge_that_was_killed_before_it_cleared_up_changes_nothing(tmp_path):
    store = filled(tmp_path / "probes", merge_at=(3,))
    shutil.copytree(store.directory / "parts", tmp_path / "parts")
    store.merge()
    shutil.copytree(tmp_path / "parts", store.directory / "parts")
    check_holds(ProbeStore(store.directory), all_results())
    ProbeStore(store.directory).merge()
    check_holds(ProbeStore(store.directory), all_results())


def test_a_merge_that_was_killed_while_it_cleared_up_is_finished_by_the_next(tmp_path):
    store = filled(tmp_path, merge_at=(8,))
    (tmp_path / "parts" / "final").mkdir(parents=True)
    store.add(made.result("epoch_9", 900, 0, "input"))
    store.merge()
    assert not (tmp_path / "parts").exists()


def test_a_part_without_its_row_in_the_results_is_not_lost(tmp_path):
    store = filled(tmp_path)
    before = (tmp_path / "results.parquet").read_bytes()
    last = made.result("final", 100, 9, "last")
    store.add(last)
    (tmp_path / "results.parquet").write_bytes(before)
    again = ProbeStore(tmp_path)
    check_holds(again, [*all_results(), last])
    again.merge()
    assert len(made.read_frame(tmp_path / "results.parquet")) == 10


def test_stray_temporary_files_are_never_read_and_cleared_by_the_next_write(tmp_path):
    store = filled(tmp_path)
    part = next((tmp_path / "parts").rglob("*.parquet"))
    strays = [
        folder / ".something.parquet.abcd.tmp" for folder in (tmp_path, part.parent, tmp_path / "heads" / "final")
    ]
    for stray in strays:
        stray.write_bytes(b"half")
    again = ProbeStore(tmp_path)
    check_holds(again, all_results())
    assert all(stray.exists() for stray in strays)
    again.add(all_results()[0])
    assert not any(stray.exists() for stray in strays)
    check_holds(store, all_results())


def test_a_folder_that_cannot_be_written_is_told_at_once_with_the_next_step(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = ProbeStore(tmp_path / "file" / "probes")
    for write in (store.prepare, lambda: store.add(made.result())):
        with pytest.raises(StoreError, match="Next step: choose a directory") as error:
            write()
        assert "hydra.run.dir=DIR on the command line" in str(error.value)
        assert "in Python, another argument of `save`" in str(error.value)
        assert str(tmp_path / "file" / "probes") in str(error.value)
    assert store.results().empty


def test_a_write_that_fails_leaves_the_earlier_results(tmp_path):
    store = filled(tmp_path)
    results = tmp_path / "results.parquet"
    results.unlink()
    results.mkdir()
    with pytest.raises(StoreError, match="intact"):
        store.add(made.result("final", 100, 9, "last"))
    results.rmdir()
    check_holds(ProbeStore(tmp_path), [*all_results(), made.result("final", 100, 9, "last")])
    assert list(tmp_path.rglob("*.tmp")) == []


def test_results_of_another_schema_are_not_continued(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "results.parquet")
    with pytest.raises(SchemaError, match="not written by layerprobe"):
        ProbeStore(tmp_path)


def test_as_a_context_it_merges_also_after_an_error(tmp_path):
    def interrupted():
        with ProbeStore(tmp_path) as store:
            store.add(made.result())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert not (tmp_path / "parts").exists()
    assert len(made.read_frame(tmp_path / "path.parquet", PathRecord)) == 3
