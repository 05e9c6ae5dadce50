"""Jobs that each probed a part leave together what one would have left."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from helpers import made_results as made
from layerprobe.jobs.shard import share
from layerprobe.results.merge import merge_results
from layerprobe.results.store import ProbeStore

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
