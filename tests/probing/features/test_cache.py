from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

from layerprobe.probing.features.buffer import Buffer
from layerprobe.probing.features.cache import FeatureCache, leaving, places
from layerprobe.probing.features.reducers import Reduction
from layerprobe.probing.features.row_blocks import AbstractRows, blocks
from layerprobe.probing.features.spill_file import SpilledRows, SpillError, SpillFile


def batches(n: int, d: int, size: int, seed: int = 0) -> list[torch.Tensor]:
    return list(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).split(size))


def whole(features) -> torch.Tensor:
    return torch.cat([block.clone() for block in blocks(features, 70)])


@pytest.mark.parametrize("budget", [0, 3_000, 6_000, 1 << 20])
def test_what_is_recorded_comes_back_whatever_the_budget(budget, tmp_path) -> None:
    cache = FeatureCache(budget, tmp_path)
    wanted = {}
    for split in ("train", "val"):
        for i, (layer, d) in enumerate((("a", 7), ("b", 20), ("c", 1))):
            wanted[layer, split, "all"] = torch.cat(batches(50, d, 16, i))
        for rows in zip(*(value.split(16) for key, value in wanted.items() if key[1] == split), strict=True):
            for layer, part in zip("abc", rows, strict=True):
                cache.append((layer, split, "all"), part.clone())
    on_disk = cache.on_disk
    for layer in "abc":
        for split in ("train", "val"):
            assert torch.equal(whole(cache.take((layer, split, "all"))), wanted[layer, split, "all"])
        cache.drop(layer)
    assert on_disk == {0: {"a", "b", "c"}, 3_000: {"a", "b"}, 6_000: {"b"}, 1 << 20: set()}[budget]
    cache.close()


@pytest.mark.parametrize("budget", [0, 3_000, 6_000])
@pytest.mark.parametrize("host", [0, 2_000, 7_000, 1 << 20])
@pytest.mark.parametrize("kept_as", [None, torch.float64])
def test_features_of_a_gpu_go_to_ram_and_from_there_to_disk(budget, host, kept_as, tmp_path) -> None:
    cache = FeatureCache(budget, tmp_path, kept_as, host)
    wanted: dict[tuple[str, str, str], list[torch.Tensor]] = {}
    for split in ("train", "val"):
        for i in range(4):
            for layer, d in (("a", 7), ("b", 20), ("c", 1)):
                part = batches(16, d, 16, i)[0]
                wanted.setdefault((layer, split, "all"), []).append(part)
                cache.append((layer, split, "all"), part.clone())
                assert not cache.on_disk & cache.in_ram
    size = {layer: 2 * 4 * 16 * 4 * d for layer, d in (("a", 7), ("b", 20), ("c", 1))}
    assert sum(size[layer] for layer in cache.in_ram) <= host
    assert sum(size[layer] for layer in size.keys() - cache.in_ram - cache.on_disk) <= budget
    if host == 1 << 20:
        assert not cache.on_disk
    for key, parts in wanted.items():
        assert torch.equal(whole(cache.take(key)), torch.cat(parts))
    cache.close()


def test_the_largest_layers_leave_until_the_others_fit() -> None:
    sizes = {"a": 40, "b": 100, "c": 60, "none": 0}
    assert leaving(sizes, 200) == []
    assert leaving(sizes, 199) == ["b"]
    assert leaving(sizes, 99) == ["b", "c"]
    assert leaving(sizes, 0) == ["b", "c", "a"]
    assert places(sizes, 99, 70) == {"a": "memory", "b": "disk", "c": "host", "none": "memory"}
    assert places(sizes, 99, 0) == {"a": "memory", "b": "disk", "c": "disk", "none": "memory"}


def test_the_largest_layer_makes_room_until_there_is_none_to_move(tmp_path, caplog) -> None:
    cache = FeatureCache(1 << 20, tmp_path, host=1_600)
    parts = {layer: batches(20, d, 20)[0] for layer, d in (("a", 5), ("b", 10), ("c", 2))}
    for layer, part in parts.items():
        cache.append((layer, "train", ""), part.clone())
    assert cache.give_way()
    assert cache.in_ram == {"b"}
    assert cache.give_way()
    assert (cache.in_ram, cache.on_disk) == ({"a", "b"}, set())
    cache.append(("a", "val", ""), parts["a"].clone())
    assert (cache.in_ram, cache.on_disk) == ({"a"}, {"b"}), "2,000 bytes exceed what RAM is allowed"
    cache.append(("c", "val", ""), parts["c"].clone())
    assert cache.in_ram == {"a", "c"}, "no more stays than did when memory was full"
    assert not cache.give_way()
    assert "features of b (0.00 GB) go to RAM" in caplog.text
    for layer, part in parts.items():
        assert torch.equal(whole(cache.take((layer, "train", ""))), part)


@pytest.mark.parametrize("known", [("train", "val"), ("train",)])
def test_where_the_number_of_samples_is_known_a_layer_goes_to_its_place_with_its_first_batch(known, tmp_path) -> None:
    """Two layers of 4,800 and 2,400 bytes for each of two splits."""
    cache = FeatureCache(5_000, tmp_path, samples={"train": 60, "val": 60 if "val" in known else None})
    parts = batches(60, 10, 20)
    for part in parts:
        cache.append(("wide", "train", ""), part)
        cache.append(("wider", "train", ""), torch.cat([part, part], 1))
        assert cache.on_disk == {"wider"}
        assert cache.left == (200 if "val" in known else 2_600)
    with cache.layer("wide") as splits, cache.layer("wider") as others:
        reduction = Reduction(10, "", lambda x: x)
        assert torch.equal(whole(splits["train"](reduction)), torch.cat(parts))
        assert torch.equal(whole(others["train"](reduction)), torch.cat([torch.cat(parts)] * 2, 1))
    assert cache.left == 5_000, "nothing is left of a layer when its turn is over"
    with pytest.raises(KeyError):
        cache.take(("wide", "val", ""))


def test_a_device_that_has_no_memory_for_what_is_expected_sends_a_layer_on(tmp_path, monkeypatch, caplog) -> None:
    def full(self, rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    cache = FeatureCache(1 << 20, tmp_path, host=1 << 20, samples={"train": 60})
    parts = batches(60, 10, 20)
    monkeypatch.setattr(Buffer, "append", full)
    cache.append(("a", "train", ""), parts[0])
    monkeypatch.undo()
    for part in parts[1:]:
        cache.append(("a", "train", ""), part)
    assert cache.in_ram == {"a"}
    assert "features of a (0.00 GB) go to RAM" in caplog.text
    assert torch.equal(whole(cache.take(("a", "train", ""))), torch.cat(parts))


def test_what_fits_by_now_is_brought_back_into_memory(tmp_path) -> None:
    cache = FeatureCache(5_000, tmp_path)
    for part in batches(60, 10, 20):
        cache.append(("wide", "train", ""), part)
        cache.append(("wider", "train", ""), torch.cat([part, part], 1))
    assert cache.on_disk == {"wider"}
    assert isinstance(cache.take(("wider", "train", "")), AbstractRows), "4,800 bytes beside 2,400 held exceed 5,000"
    cache.append(("wider", "val", ""), torch.zeros(60, 20))
    cache.drop("wide")
    assert isinstance(cache.take(("wider", "val", "")), torch.Tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_are_read_across_the_pieces_they_were_written_in(dtype, tmp_path) -> None:
    parts = [part.to(torch.float64) for part in batches(40, 3, 7)]
    rows = SpilledRows(SpillFile(tmp_path), 3, dtype, torch.float64, torch.device("cpu"))
    for part in parts:
        rows.append(part)
    expected = torch.cat(parts).to(dtype).double()
    assert rows.shape == (40, 3)
    for start in range(0, 41, 3):
        for stop in range(start, 41, 5):
            assert torch.equal(rows[start:stop], expected[start:stop])
    assert rows[30:99].shape == (10, 3)


def test_the_file_has_no_name(tmp_path) -> None:
    file = SpillFile(tmp_path)
    file.write(torch.ones(10, 10))
    assert list(tmp_path.iterdir()) == [], "a killed process would leave it behind"
    file.close()


FULL = """
import resource, sys, torch
from layerprobe.probing.features.spill_file import SpillError, SpillFile
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
file = SpillFile(sys.argv[1])
try:
    for _ in range(10):
        file.write(torch.ones(100, 10))
except SpillError as error:
    print(error)
"""


def test_a_full_disk_is_named(tmp_path) -> None:
    """Files of a process of its own may have at most 4 KiB, as on a disk that is full by then."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert re.search(r"Writing features to .* failed after .*spill_directory", done.stdout)


def test_a_directory_that_cannot_be_written_is_named(tmp_path) -> None:
    with pytest.raises(SpillError, match="spill_directory"):
        SpillFile(tmp_path / "none")
    assert os.listdir(tmp_path) == []
