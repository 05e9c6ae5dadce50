from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import layerprobe
from helpers.discovered import discover
from layerprobe.probing.activation_recorder import ActivationRecorder
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.features.cache import FeatureCache
from layerprobe.probing.features.oom import OnCPU, with_room
from layerprobe.probing.features.reducers import Flatten
from layerprobe.probing.features.row_blocks import AbstractRows, blocks
from layerprobe.probing.features.scaler import StandardisedRows, Standardiser
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.solver import AbstractSolver

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB. See documentation"


def test_work_that_fits_is_done_where_it_is() -> None:
    x = torch.ones(2, 3)
    assert with_room(lambda a, b: (a, b), x, None, what="layer")[0] is x


def test_what_did_not_fit_is_let_go_before_the_second_try(caplog) -> None:
    large: list[weakref.ref[torch.Tensor]] = []

    def work(features):
        if not large:
            buffer = torch.ones(1000)
            large.append(weakref.ref(buffer))
            raise torch.OutOfMemoryError(FULL)
        assert large[0]() is None, "held by the exception's traceback"
        return features.sum()

    assert with_room(work, torch.ones(2, 3), what="layer1") == 6
    assert "layer1: fitted on the CPU" in caplog.text
    assert "Tried to allocate 2.00 GiB" in caplog.text
    assert "documentation" not in caplog.text


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cusolver error: CUSOLVER_STATUS_NOT_INITIALIZED, when calling `cusolverDnCreate(handle)`",
    ],
)
def test_memory_that_a_library_asks_for_counts_too(message, caplog) -> None:
    tries = []

    def work(features):
        tries.append(features)
        if len(tries) == 1:
            raise RuntimeError(message)
        return features.sum()

    assert with_room(work, torch.ones(2, 3), what="layer1") == 6
    assert message.split(" when")[0][:20] in caplog.text


def test_any_other_error_is_not_retried() -> None:
    tries = []

    def work(features):
        tries.append(features)
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        with_room(work, torch.ones(1, 1), what="layer")
    assert len(tries) == 1


def test_rows_are_brought_over_as_they_are_read() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    rows = StandardisedRows(x, Standardiser.fit(x))
    found = OnCPU(rows)
    assert isinstance(found, AbstractRows)
    assert torch.equal(torch.cat([*blocks(found, 20)]), rows[0:50])


class Hungry(nn.Module):
    """A network that finds its memory full while the cache holds more than some bytes, as on a GPU that both share."""

    def __init__(self, cache: FeatureCache, limit: int) -> None:
        super().__init__()
        self.first, self.second, self.limit = nn.Linear(6, 8), nn.Linear(8, 4), limit
        self.cache = [cache]

    def forward(self, x):
        found = self.second(self.first(x).relu())
        if sum(self.cache[0]._bytes.values()) > self.limit:
            raise torch.OutOfMemoryError(FULL)
        return found


def recorded(limit: int, tmp_path, host: int = 1 << 20):
    torch.manual_seed(0)
    cache = FeatureCache(1 << 30, tmp_path, host=host)
    network = Hungry(cache, limit)
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    bank_of_trial, network.limit = network.limit, 1 << 30
    layers = discover(network, x[:2])
    network.limit = bank_of_trial
    reductions = {layer: [Flatten().fit(layer.shape, 0)] for layer in layers}
    batches = [(part, torch.arange(len(part)) % 2) for part in x.split(8)]
    with freeze(network) as frozen, ActivationRecorder(frozen, reductions, ProbeProtocol(), cache, "train") as record:
        for batch in batches:
            record(batch)
    assert not record.recording.problems
    return cache, {
        layer.name: torch.cat([part.clone() for part in blocks(cache.take((layer.name, "train", made.description)))])
        for layer, (made,) in reductions.items()
    }


@pytest.mark.parametrize("limit", [0, 300, 800])
@pytest.mark.parametrize("host", [0, 1 << 20])
def test_a_pass_that_runs_out_of_memory_moves_features_and_keeps_each_once(limit, host, tmp_path, caplog) -> None:
    cache, found = recorded(limit, tmp_path, host)
    _, expected = recorded(1 << 30, tmp_path, host)
    assert found.keys() == expected.keys()
    assert len(found) >= 4
    for name in found:
        assert torch.equal(found[name], expected[name])
    assert cache.in_ram if host else cache.on_disk
    assert "The GPU's memory is full" in caplog.text


def test_a_batch_for_which_nothing_makes_room_is_one_clear_error(tmp_path) -> None:
    with pytest.raises(MemoryError, match=r"A batch of 8 samples of the train split .* Lower `batch_size`"):
        recorded(-1, tmp_path)


@dataclass(frozen=True)
class Scarce(AbstractSolver):
    """A solver whose device has no room for features before they are moved."""

    seen: list[bool]
    name: ClassVar[str] = "scarce"

    def solve(self, features, targets, n_classes, l2, spectrum=None, stop=None, rough=False):
        self.seen.append(isinstance(features, OnCPU))
        if len(self.seen) % 2:
            raise torch.OutOfMemoryError(FULL)
        return Logistic().solve(features, targets, n_classes, l2, spectrum, stop, rough)

    def operations(self, n, d, c, p):
        return Logistic().operations(n, d, c, p)

    def losses(self, scores, targets):
        return Logistic().losses(scores, targets)

    def ranking(self, scores):
        return Logistic().ranking(scores)


@pytest.mark.parametrize("refit", [False, True])
def test_a_layer_whose_fit_runs_out_of_memory_is_fitted_on_the_cpu(refit, caplog) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    data = {"train": (x[:100], y[:100]), "val": (x[100:150], y[100:150]), "test": (x[150:], y[150:])}

    def results(solver):
        protocol = ProbeProtocol(solvers=(solver,), l2=[1e-3, 1e-1], refit=refit)
        return list(probe_checkpoint(network, data, protocol))

    plain = results(Logistic())
    with caplog.at_level(logging.WARNING):
        scarce = results(Scarce([]))
    assert all(result.record.status == "converged" for result in scarce)
    for found, expected in zip(scarce, plain, strict=True):
        for name in ("layer", "test_error", "val_error", "train_error", "l2"):
            assert getattr(found.record, name) == getattr(expected.record, name)
    assert caplog.text.count("fitted on the CPU") == len(plain) * (2 if refit else 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_on_a_gpu_that_others_have_nearly_filled(tmp_path) -> None:
    """More is recorded than the GPU has left: the results are those of the CPU."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 64, generator=generator)
    y = (x[:, 0] > 0).long()
    data = {"train": (x[:2000], y[:2000]), "val": (x[2000:2500], y[2000:2500]), "test": (x[2500:], y[2500:])}
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, 8192), nn.ReLU(), nn.Linear(8192, 2))
    options = {"l2": [1e-1], "layers": ["input", "1", "3"], "reducer": Flatten(), "progress": False}
    expected = layerprobe.probe(network, data, max_memory="8GiB", **options)
    network.cuda()
    torch.zeros(1, device="cuda") @ torch.zeros(1, 1, device="cuda")
    free = torch.cuda.mem_get_info()[0]
    filled = torch.empty(free - 400 * 2**20, dtype=torch.uint8, device="cuda")
    found = layerprobe.probe(network, data, max_memory="8GiB", **options)
    del filled
    assert (found["status"] == "converged").all(), found["message"].tolist()
    np.testing.assert_allclose(found["test_error"], expected["test_error"], atol=0.01)
