from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerprobe.probing.features import growing_matrix as growing
from layerprobe.probing.features.growing_matrix import GrowingRows


@given(sizes=st.lists(st.integers(0, 40), max_size=12), d=st.integers(1, 9), double=st.booleans())
def test_rows_come_back_as_they_went_in(sizes: list[int], d: int, double: bool) -> None:
    dtype, generator = (torch.float64 if double else torch.float32), torch.Generator().manual_seed(0)
    parts = [torch.randn(size, d, generator=generator, dtype=dtype) for size in sizes]
    rows = GrowingRows(d, dtype)
    for part in parts:
        rows.append(part)
    expected = torch.cat([torch.empty(0, d, dtype=dtype), *parts])
    assert (len(rows), rows.nbytes) == (len(expected), expected.nbytes)
    assert torch.equal(torch.cat([torch.empty(0, d, dtype=dtype), *rows.pieces()]), expected)
    assert torch.equal(rows.rows(), expected)


class Rigid:
    """Pages of a system that cannot make them larger."""

    MAP_PRIVATE, MAP_ANONYMOUS = mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS

    class mmap(mmap.mmap):
        def resize(self, size: int) -> None:
            raise SystemError("mmap: resizing not available--no mremap()")


def test_a_system_that_cannot_move_pages_copies_them(monkeypatch) -> None:
    monkeypatch.setattr(growing, "mmap", Rigid)
    test_rows_come_back_as_they_went_in()


def test_what_is_handed_out_outlives_the_matrix() -> None:
    rows = GrowingRows(3, torch.float32)
    rows.append(torch.ones(4, 3))
    found = rows.rows()
    del rows
    assert float(found.mul_(2).sum()) == 24


PEAK = """
import re, torch
from layerprobe.probing.features.cache import FeatureBank
bank, d, n, size = FeatureBank(1 << 30), 4000, 12_000, 1000
torch.ones(7_500_000)  # as the work of a network: from then on the allocator keeps pieces of this size for itself
def peak():  # of this process: what getrusage says is at least what the one that started it held
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
for start in range(0, n, size):
    for split in ("train", "val"):
        bank.append(("layer", split, ""), torch.full((size, d), float(start)))
found = [bank.take(("layer", split, "")) for split in ("train", "val")]
assert float(found[1][-1, -1]) == n - size
print((peak() - before) / (2 * 4 * n * d))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_features_are_never_held_twice() -> None:
    """What 384 MB of features take at their peak, joined: 384 MB and a batch, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert 0.8 < float(done.stdout) < 1.3
