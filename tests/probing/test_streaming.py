from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from layerprobe.probing.batches import reshuffled
from layerprobe.probing.features.reducers import Flatten
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge

L2 = [1e-3, 1e-2, 1e-1, 1.0]


@pytest.fixture(scope="module")
def digits() -> dict[str, tuple[Tensor, Tensor]]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = torch.tensor(x[order], dtype=torch.float32) / 16, torch.tensor(y[order]) * 3
    return {"train": (x[:900], y[:900]), "val": (x[900:1300], y[900:1300]), "test": (x[1300:], y[1300:])}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def frame(network: nn.Module, data: dict, protocol: ProbeProtocol, batch_size: int | None = None) -> pd.DataFrame:
    results = probe_checkpoint(network, data, protocol, resources=Resources(batch_size))
    return pd.DataFrame([vars(result.record) for result in results])


def test_streamed_ridge_is_ridge(digits: dict, network: nn.Module) -> None:
    kept = frame(network, digits, ProbeProtocol(solvers=[Ridge()], l2=L2), 64)
    streamed = frame(network, digits, ProbeProtocol(solvers=[Ridge()], l2=L2, stream=True), 64)
    ignored = ["seconds", "train_error"]
    pd.testing.assert_frame_equal(streamed.drop(columns=ignored), kept.drop(columns=ignored), rtol=1e-4, atol=1e-6)
    assert streamed["train_error"].isna().all()


def test_validation_and_test_of_a_stream_find_room_on_disk(
    digits: dict, network: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    protocol = ProbeProtocol(solvers=[Ridge()], l2=L2, stream=True)
    expected = frame(network, digits, protocol)
    monkeypatch.setattr("layerprobe.probing.pipeline.feature_budget", lambda *_: 0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = frame(network, digits, protocol)
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"), rtol=1e-6)


def test_batch_size_and_workers_do_not_matter_to_ridge(digits: dict, network: nn.Module) -> None:
    first = frame(network, digits, ProbeProtocol(solvers=[Ridge()], l2=L2, stream=True), 1000)
    loaders = {split: DataLoader(TensorDataset(*pair), 37, shuffle=True) for split, pair in digits.items()}
    second = frame(network, loaders, ProbeProtocol(solvers=[Ridge()], l2=L2, stream=True))
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"), rtol=1e-4)


def test_a_layer_that_fails_is_reported_and_the_others_go_on(digits: dict) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x[:, :1] > 2, x, x / 0 * 0)

    network = nn.Sequential(nn.Linear(64, 8), Broken())
    found = frame(network, digits, ProbeProtocol(solvers=[Ridge()], l2=L2, stream=True)).set_index("layer")
    assert found["status"]["0"] == "converged"
    assert found["status"]["1"] == "failed"
    assert "NaN" in found["message"]["1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solvers": [Logistic()]}, r"'logistic' cannot stream.* Set stream=false: .* kept on disk"),
        ({"solvers": [Ridge()], "controls": ["shuffled"]}, "controls"),
        ({"solvers": [Ridge()], "standardise": False}, "standardise"),
    ],
)
def test_what_needs_kept_features_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbeProtocol(stream=True, **options)


def test_ridge_streams_no_matrix_that_is_too_large() -> None:
    x = torch.zeros(8, 7000)
    data = {split: (x, torch.arange(8) % 2) for split in ("train", "val", "test")}
    protocol = ProbeProtocol(layers="input", reducers=[Flatten()], solvers=[Ridge()], l2=L2, stream=True)
    with pytest.raises(ValueError, match=r"7000 x 7000 .* set stream=false"):
        list(probe_checkpoint(nn.Linear(7000, 2), data, protocol))


@pytest.mark.parametrize("kind", ["pair", "loader"])
def test_reshuffled_gives_every_sample_once_in_the_order_of_the_seed(kind: str) -> None:
    pair = (torch.arange(50.0)[:, None], torch.arange(50))
    source = pair if kind == "pair" else DataLoader(TensorDataset(*pair), 8)
    orders = [torch.cat([y for _, y in reshuffled(source, 8, seed)]).tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(50)) != orders[0]
    for x, y in reshuffled(source, 8, 0):
        assert torch.equal(x[:, 0].long(), y)
