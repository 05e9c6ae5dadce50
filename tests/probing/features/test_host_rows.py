from __future__ import annotations

import pytest
import torch

from layerprobe.probing.features.cache import FeatureCache
from layerprobe.probing.features.host_rows import HostRows, pinned

CPU = torch.device("cpu")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def parts(n: int, d: int, size: int) -> list[torch.Tensor]:
    return list(torch.randn(n, d, generator=torch.Generator().manual_seed(0)).split(size))


@pytest.mark.parametrize("device", [CPU, pytest.param(torch.device("cuda:0"), marks=[pytest.mark.gpu, on_a_gpu])])
@pytest.mark.parametrize(("n", "d", "size"), [(40, 3, 7), (1, 5, 1), (64, 1, 3), (12, 0, 5), (9, 1 << 21, 1)])
def test_rows_come_back_whatever_chunks_they_lie_in(n: int, d: int, size: int, device: torch.device) -> None:
    """Rows of 8 MiB make chunks of one row and of several."""
    wanted = torch.cat(parts(n, d, size))
    rows = HostRows(d, torch.float32, device)
    for part in parts(n, d, size):
        rows.append(part.to(device))
    assert rows.shape == (n, d)
    for start in range(0, n + 1, max(1, n // 5)):
        for stop in range(start, n + 1, max(1, n // 7)):
            found = rows[start:stop]
            assert found.device == device
            assert torch.equal(found.cpu(), wanted[start:stop])
    assert torch.equal(torch.cat([piece.clone() for piece in rows.pieces()]), wanted)
    assert (len(rows), rows.nbytes) == (0, 0)


@pytest.mark.parametrize("d", [100, 1024])
def test_little_of_what_is_taken_is_empty(d: int) -> None:
    """A quarter of what is full at most, and what no whole row fits in; all of it is accounted for."""
    rows = HostRows(d, torch.float32, CPU)
    for part in parts(5000, d, 64):
        rows.append(part)
        assert rows.nbytes <= 1.25 * 1.05 * len(rows) * d * 4 + 64 * d * 4
    assert all(size & (size - 1) == 0 for size in (chunk.untyped_storage().nbytes() for chunk in rows._chunks))


def test_rows_as_long_as_a_chunk_are_accounted_for_with_what_is_empty_behind_them() -> None:
    rows = HostRows(9 << 20, torch.float32, CPU)
    rows.append(torch.zeros(2, 9 << 20))
    assert rows.nbytes == 2 << 26, "36 MiB each, in 64 MiB"


def test_a_machine_that_pins_no_more_gives_ordinary_memory(monkeypatch) -> None:
    empty, asked = torch.empty, []

    def refuse(*size, pin_memory=False, **options):
        asked.append(pin_memory)
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return empty(*size, **options)

    monkeypatch.setattr(torch, "empty", refuse)
    found = pinned(3, torch.float32, torch.device("cuda:0"))
    assert (found.shape, found.device) == ((3,), CPU)
    assert asked == [True, True, False], "tried once more, when what torch keeps has been given back"


def test_a_split_without_rows_comes_back(tmp_path) -> None:
    cache = FeatureCache(0, tmp_path, host=1 << 30)
    for split, n in (("train", 3), ("test", 0)):
        cache.append(("a", split, ""), torch.ones(n, 4))
    assert cache.take(("a", "test", "")).shape == (0, 4)
    assert cache.take(("a", "train", "")).shape == (3, 4)


@pytest.mark.gpu
@on_a_gpu
def test_a_copy_that_is_on_its_way_is_neither_overtaken_nor_read_early() -> None:
    """The batch's memory is used again at once, while the copy waits for a GPU that is busy."""
    rows = HostRows(1 << 18, torch.float32, torch.device("cuda:0"))
    for i in range(20):
        batch = torch.empty(4, 1 << 18, device="cuda")
        torch.cuda._sleep(10_000_000)
        batch.fill_(i)
        rows.append(batch)
        del batch
        torch.empty(4, 1 << 18, device="cuda").fill_(-1.0)
    assert torch.equal(rows[:].mean(1).cpu(), torch.arange(20.0).repeat_interleave(4))
    assert rows._chunks[0].is_pinned()


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("host", [0, 1 << 16, 1 << 24])
def test_features_of_a_gpu_come_back_from_ram_and_from_disk(host: int, tmp_path) -> None:
    cache = FeatureCache(1 << 12, tmp_path, host=host)
    wanted = {layer: torch.cat(parts(300, d, 32)) for layer, d in (("a", 70), ("b", 20))}
    for i in range(0, 300, 32):
        for layer, whole in wanted.items():
            cache.append((layer, "train", ""), whole[i : i + 32].cuda())
    assert bool(cache.on_disk) == (host < 1 << 24)
    for layer, whole in wanted.items():
        found = cache.take((layer, "train", ""))
        assert found.device.type == "cuda"
        assert torch.equal(found[0:300].cpu(), whole)
        cache.drop(layer)
