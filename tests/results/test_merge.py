"""Jobs that each probed a part leave together what one would have left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import made_results as made
from layerprobe.jobs.probe import share
from layerprobe.results.heads import HEADS
from layerprobe.results.merge import merge_results
from layerprobe.results.scores import read_scores
from layerprobe.results.store import ProbeStore
from layerprobe.types import SampleScores

CHECKPOINTS = [("initial", 0), ("epoch_1", 50), ("final", 100)]


def probed(directory: Path, checkpoints: list[tuple[str, int]], layers: range) -> Path:
    with ProbeStore(directory) as store:
        for name, step in checkpoints:
            for depth in layers:
                store.add(made.result(name, step, depth, f"layer{depth}"))
    return directory


def check_same(found: Path, expected: Path) -> None:
    for name in ("results", "path", "correct"):
        frames = [pd.read_parquet(folder / f"{name}.parquet") for folder in (found, expected)]
        pd.testing.assert_frame_equal(*frames)
    assert (found / "results.csv").read_text() == (expected / "results.csv").read_text()
    heads = [sorted(file.relative_to(folder) for file in folder.rglob("*.safetensors")) for folder in (found, expected)]
    assert heads[0] == heads[1]


def test_by_checkpoints_and_by_layers(tmp_path: Path) -> None:
    whole = probed(tmp_path / "whole", CHECKPOINTS, range(4))
    shares = [probed(tmp_path / f"c{i}", list(share(CHECKPOINTS, f"{i}/2")), range(4)) for i in (1, 2)]
    assert merge_results(shares, tmp_path / "by_checkpoint") == 12
    check_same(tmp_path / "by_checkpoint", whole)
    shares = [probed(tmp_path / f"l{i}", CHECKPOINTS, layers) for i, layers in enumerate((range(2, 4), range(2)))]
    merge_results(shares, tmp_path / "by_layer")
    check_same(tmp_path / "by_layer", whole)
    assert ProbeStore(tmp_path / "by_layer").head("final", "layer3")


def test_overlap_is_counted_once(tmp_path: Path) -> None:
    shares = [probed(tmp_path / "a", CHECKPOINTS, range(3)), probed(tmp_path / "b", CHECKPOINTS, range(1, 4))]
    assert merge_results(shares, tmp_path / "merged") == 12
    check_same(tmp_path / "merged", probed(tmp_path / "whole", CHECKPOINTS, range(4)))


def test_what_a_later_share_did_not_keep_is_not_an_earlier_ones(tmp_path: Path) -> None:
    scores = {"test": SampleScores(np.arange(20), np.arange(20) % 3, np.zeros((20, 3), np.float32))}
    for name in ("a", "b"):
        with ProbeStore(tmp_path / name) as store:
            for layer in ("one", "two"):
                kept = made.result("final", 100, 1, layer)
                store.add(replace(kept, scores=scores if name == "a" else {}))
    merge_results([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    assert not read_scores(tmp_path / "merged", "final", "one")
    merge_results([tmp_path / "b", tmp_path / "a"], tmp_path / "turned")
    assert read_scores(tmp_path / "turned", "final", "one"), "the negative control"


def test_a_layer_that_failed_the_second_time_has_no_head(tmp_path: Path) -> None:
    lost = made.of(made.failed(depth=1, layer="one"))
    for name, first in (("a", made.result(depth=1, layer="one")), ("b", lost)):
        with ProbeStore(tmp_path / name) as store:
            store.add(first)
            store.add(made.result(depth=2, layer="two"))
    one, two = "001_one.safetensors", "002_two.safetensors"
    for name, order, heads in (("merged", "ab", {two}), ("turned", "ba", {one, two})):
        merge_results([tmp_path / source for source in order], tmp_path / name)
        assert {file.name for file in HEADS.folder(tmp_path / name, "final").iterdir()} == heads


def test_a_second_merge_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    scores = {"test": SampleScores(np.arange(20), np.arange(20) % 3, np.zeros((20, 3), np.float32))}
    for name, layer, kept in (("first", "one", scores), ("second", "two", {})):
        with ProbeStore(tmp_path / name) as store:
            made_up = made.result("final", 100, 1, layer)
            store.add(replace(made_up, scores=kept, test_set="test" if name == "second" else "other"))
    merged = tmp_path / "merged"
    merge_results([tmp_path / "first"], merged)
    assert (merged / "answers.parquet").exists(), "the negative control"
    merge_results([tmp_path / "second"], merged)
    again = tmp_path / "again"
    merge_results([tmp_path / "second"], again)
    names = [sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()) for folder in (merged, again)]
    assert names[0] == names[1]


def test_a_job_without_results(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="let that job finish"):
        merge_results([tmp_path], tmp_path / "merged")


def test_shares_are_the_whole() -> None:
    work = list(range(10))
    assert sorted(piece for i in (1, 2, 3) for piece in share(work, f"{i}/3")) == work
    assert share(work, None) == work
    for wrong in ("0/3", "4/3", "1", "a/b"):
        with pytest.raises(ValueError, match="i/n"):
            share(work, wrong)
