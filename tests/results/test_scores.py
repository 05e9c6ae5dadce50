"""Scores of test sets on disk, whatever names their samples."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import made_results as made
from layerprobe.results.scores import confusion, read_scores, score_frame, write_scores
from layerprobe.results.store import ProbeStore, StoreError
from layerprobe.types import SampleScores


def test_ids_of_one_test_set_may_be_numbers_and_those_of_another_text(tmp_path: Path) -> None:
    def scores(ids: list[int] | list[str]) -> SampleScores:
        return SampleScores(np.array(ids), np.array([0, 1, 2]), np.eye(3, dtype=np.float32))

    result = replace(made.result(), scores={"test": scores([7, 8, 9]), "far": scores(["a", "b", "7"])})
    write_scores(tmp_path, result)
    found = read_scores(tmp_path, result.record.checkpoint, result.record.layer)
    assert {name: part.ids.tolist() for name, part in found.items()} == {
        "test": ["7", "8", "9"],
        "far": ["a", "b", "7"],
    }


def test_a_disk_that_is_full_at_the_scores_leaves_what_is_there_whole(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scores = {"test": SampleScores(np.arange(9000), np.arange(9000) % 3, random.random((9000, 3), np.float32))}
    store, before = ProbeStore(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    store.add(replace(made.result(depth=0, layer="input"), scores=scores))
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot be written to .*space left.*what was written before is intact"):
            store.add(replace(made.result(depth=1, layer="1"), scores=scores))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    again = ProbeStore(tmp_path)
    assert again.done("final") == {"input"} and len(read_scores(tmp_path, "final", "input")["test"].ids) == 9000
    assert not read_scores(tmp_path, "final", "1")
    again.add(replace(made.result(depth=1, layer="1"), scores=scores))
    again.merge()
    assert ProbeStore(tmp_path).done("final") == {"input", "1"} and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["a", "b", "c"], ["a", "b", "c"]),
        (["a", "a", "b"], ["a (0)", "a (1)", "b"]),
        (["x", "", ""], ["x", "(1)", "(2)"]),
        (["a", "a", "a (0)"], ["a (0) (0)", "a (1)", "a (0) (2)"]),
    ],
)
def test_classes_of_one_name_are_counted_apart(words: list[str], names: list[str]) -> None:
    answers = np.eye(3, dtype=np.float32)[[0, 1, 1, 0, 2, 2]]
    scores = {"test": SampleScores(np.arange(6), np.array([0, 0, 1, 1, 2, 2]), answers)}
    frame = score_frame(scores, np.arange(3), words)
    assert frame["predicted"].tolist() == [names[i] for i in (0, 1, 1, 0, 2, 2)]
    counts = confusion(frame)
    assert counts.index.tolist() == counts.columns.tolist() == names
    assert counts.to_numpy().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 2]]
