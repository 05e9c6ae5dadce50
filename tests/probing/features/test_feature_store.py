"""The folder of kept features: whole files or none, whoever writes at the same time, and what is removed."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.forked import run
from layerprobe.probing.features.feature_store import FeatureStore
from layerprobe.probing.features.spill_file import SpilledRows, SpillFile

NET, OTHER = "a" * 32, "b" * 32
ABOUT = {"network": "Net", "layer": "0", "split": "train", "samples": "50", "inputs": "abc"}


def keep_often(directory: Path, value: float) -> None:
    store = FeatureStore(directory)
    for _ in range(40):
        store.keep(store.file(NET, "a"), torch.full((500, 20), value), ABOUT)


def test_two_that_write_the_same_leave_one_whole_file_at_every_moment(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=keep_often, args=(tmp_path / "kept", float(i))) for i in range(2)]
    for writer in writers:
        writer.start()
    seen: set[float] = set()
    while any(writer.is_alive() for writer in writers):
        store = FeatureStore(tmp_path / "kept")
        if (found := store.find(store.file(NET, "a"))) is not None:
            values = found[0].unique().tolist()
            assert len(values) == 1
            seen.update(values)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen <= {0.0, 1.0}
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [NET, "features.json"]
    assert len(list((tmp_path / "kept" / NET).iterdir())) == 1


def test_any_program_reads_the_file(tmp_path: Path) -> None:
    store, features = FeatureStore(tmp_path), torch.randn(5, 3)
    store.keep(file := store.file(NET, "a"), features, ABOUT)
    assert torch.equal(load_file(file)["features"], features)
    assert store.entries()[0].about == ABOUT
    assert file.stat().st_mode == (tmp_path / "features.json").stat().st_mode, "other users read what they may"


@pytest.mark.parametrize("macos", [False, True])
def test_rows_on_disk_are_kept_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, macos: bool) -> None:
    if macos:
        monkeypatch.delattr(os, "posix_fallocate")
    features = torch.randn(50, 3, dtype=torch.float64)
    rows = SpilledRows(SpillFile(tmp_path), 3, torch.float64, torch.float64, torch.device("cpu"))
    for block in features.split(7):
        rows.append(block)
    store = FeatureStore(tmp_path / "kept")
    store.keep(file := store.file(NET, "a"), rows, ABOUT)
    found = store.find(file)
    assert found is not None
    assert torch.equal(found[0], features)
    found[0].zero_()
    assert torch.equal(load_file(file)["features"], features), "what is found is written to by nobody"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Three files of two networks, used 3, 2 and 1 hours ago."""
    store = FeatureStore(tmp_path / "kept")
    for i, network in enumerate((NET, NET, OTHER)):
        file = store.file(network, str(i))
        store.keep(file, torch.ones(1000, 25), ABOUT | {"layer": str(i)})
        os.utime(file, (0, time.time() - 3600 * (3 - i)))
    store.keep_text(store.file(OTHER, "layers", kind="json"), {})
    stray = store.directory / NET / ".x.safetensors.0123abcd.tmp"
    stray.write_bytes(b"")
    os.utime(stray, (0, 0))
    return store.directory


def test_what_is_not_the_stores_is_left_alone(kept: Path) -> None:
    others = [kept / "notes" / "a.json", kept / "notes" / "a.safetensors", kept / OTHER / "about.json"]
    (kept / "notes").mkdir()
    for file in others:
        file.write_bytes(next(kept.glob("*/*.safetensors")).read_bytes())
    store = FeatureStore(kept)
    assert len(store.entries()) == 3
    store.remove(store.entries())
    assert sorted(path for path in kept.rglob("*") if path.is_file()) == sorted([*others, kept / "features.json"])
    assert sorted(path.name for path in kept.iterdir()) == [OTHER, "features.json", "notes"]


def features_py(kept: Path, *words: str) -> tuple[int, str]:
    script = str(Path(__file__).parents[3] / "scripts" / "features.py")
    done = run([sys.executable, script, *words], cwd=kept.parent)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "left", "said"),
    [
        ((), ["0", "1", "2"], "kept: 301 kB in 3 files"),
        (("unused=90m",), ["2"], "Removed 200 kB in 2 files."),
        (("left=210kB",), ["1", "2"], "Removed 100 kB in 1 file."),
        (("network=bb", "left=0"), ["0", "1"], "Removed 100 kB in 1 file."),
        (("left=lots",), ["0", "1", "2"], "features.py: left=lots is no size. Give bytes, or a size such as 500MB"),
        (("unused=30",), ["0", "1", "2"], "features.py: unused=30 is no time. Give 12h or 30d."),
        (("unused=old",), ["0", "1", "2"], "features.py: unused=old is no time. Give 12h or 30d."),
    ],
)
def test_listing_and_removing(kept: Path, words: tuple[str, ...], left: list[str], said: str) -> None:
    code, text = features_py(kept, "keep=kept", *words)
    assert said in " ".join(text.split())
    assert code == (1 if "features.py:" in said else 0)
    assert sorted(entry.about["layer"] for entry in FeatureStore(kept).entries()) == left
    if "Removed" in said:
        assert not list(kept.rglob("*.tmp"))
        assert all(any(folder.glob("*.safetensors")) for folder in kept.iterdir() if folder.is_dir())
