from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerprobe.probing.features import buffer
from layerprobe.probing.features.buffer import Buffer

CPU = torch.device("cpu")
ON_A_GPU = pytest.param(
    torch.device("cuda:0"),
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)


@pytest.mark.parametrize("device", [CPU, ON_A_GPU])
@given(
    sizes=st.lists(st.integers(0, 40), max_size=12),
    d=st.integers(1, 9),
    double=st.booleans(),
    off=st.none() | st.integers(-60, 60),
)
def test_rows_come_back_as_they_went_in(
    sizes: list[int], d: int, double: bool, off: int | None, device: torch.device
) -> None:
    """Whether their number is known, not known, or said to be smaller or larger than it is."""
    dtype, generator = (torch.float64 if double else torch.float32), torch.Generator().manual_seed(0)
    parts = [torch.randn(size, d, generator=generator, dtype=dtype).to(device) for size in sizes]
    rows = Buffer(d, dtype, device, None if off is None else max(0, sum(sizes) + off))
    for part in parts:
        rows.append(part)
    expected = torch.cat([torch.empty(0, d, dtype=dtype, device=device), *parts])
    assert len(rows) == len(expected)
    assert rows.nbytes >= expected.nbytes
    assert torch.equal(torch.cat([expected[:0], *rows.pieces()]), expected)
    assert torch.equal(rows.rows(), expected)


@pytest.mark.parametrize("device", [CPU, ON_A_GPU])
@pytest.mark.parametrize("expected", [None, 100, 40])
def test_memory_is_taken_once_where_the_number_of_rows_is_known(
    expected: int | None, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    empty = torch.empty

    def made(*size: int, **options: Any) -> torch.Tensor:
        taken.append(size[0])
        return empty(*size, **options)

    def mapped(pages: mmap.mmap | None, size: int) -> mmap.mmap:
        taken.append(size // 12)
        return buffer.resized_pages(pages, size)

    rows = Buffer(3, torch.float32, device, expected, mapped)
    if device.type != "cpu":
        monkeypatch.setattr(torch, "empty", made)
    for part in torch.zeros(100, 3, device=device).split(10):
        rows.append(part)
    assert taken == {None: [20, 60, 140], 100: [100], 40: [40, 100]}[expected]
    assert rows.nbytes == 12 * (140 if expected is None and device.type != "cpu" else 100)


class Rigid:
    """Pages of a system that cannot make them larger."""

    MAP_PRIVATE, MAP_ANONYMOUS = mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS

    class mmap(mmap.mmap):
        def resize(self, size: int) -> None:
            raise SystemError("mmap: resizing not available--no mremap()")


def test_a_system_that_cannot_move_pages_copies_them(monkeypatch) -> None:
    monkeypatch.setattr(buffer, "mmap", Rigid)
    test_rows_come_back_as_they_went_in(device=CPU)


def test_what_is_handed_out_outlives_the_matrix() -> None:
    rows = Buffer(3, torch.float32)
    rows.append(torch.ones(4, 3))
    found = rows.rows()
    del rows
    assert float(found.mul_(2).sum()) == 24


PEAK = """
import re, torch
from layerprobe.probing.features.cache import FeatureCache
d, n, size = 4000, 12_000, 1000
cache = FeatureCache(1 << 30, samples=dict.fromkeys(("train", "val"), n if KNOWN else None))
torch.ones(7_500_000)  # as the work of a network: from then on the allocator keeps pieces of this size for itself
def peak():  # of this process: what getrusage says is at least what the one that started it held
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
for start in range(0, n, size):
    for split in ("train", "val"):
        cache.append(("layer", split, ""), torch.full((size, d), float(start)))
found = [cache.take(("layer", split, "")) for split in ("train", "val")]
assert float(found[1][-1, -1]) == n - size
print((peak() - before) / (2 * 4 * n * d))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize("known", [False, True])
def test_features_are_never_held_twice(known: bool) -> None:
    """What 384 MB of features take at their peak, joined: 384 MB and a batch, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"KNOWN = {known}\n{PEAK}"], capture_output=True, text=True, check=True
    )
    assert 0.8 < float(done.stdout) < 1.3
