from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge as RidgeOfSklearn
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from helpers.digits import shuffled_digits
from layerprobe.probing.batches import reshuffled
from layerprobe.probing.budget import Budget
from layerprobe.probing.features.reducers import Flatten
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.tasks.class_weights import ClassWeight
from layerprobe.probing.tasks.classification import Classification

L2 = [1e-3, 1e-2, 1e-1, 1.0]


@pytest.fixture(scope="module")
def digits() -> dict[str, tuple[Tensor, Tensor]]:
    return {split: (x, 3 * y) for split, (x, y) in shuffled_digits(0, 900, 400).items()}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def frame(
    network: nn.Module,
    data: dict,
    protocol: ProbeProtocol,
    batch_size: int | None = None,
    allowed: Budget | None = None,
) -> pd.DataFrame:
    results = probe_checkpoint(network, data, protocol, resources=Resources(batch_size), allowed=allowed)
    return pd.DataFrame([vars(result.record) for result in results])


def test_streamed_ridge_is_ridge(digits: dict, network: nn.Module) -> None:
    kept = frame(network, digits, ProbeProtocol(solvers=[Ridge()], l2=L2), 64)
    streamed = frame(network, digits, ProbeProtocol(solvers=[Ridge()], l2=L2, stream=True), 64)
    ignored = ["seconds", "train_error"]
    pd.testing.assert_frame_equal(streamed.drop(columns=ignored), kept.drop(columns=ignored), rtol=1e-4, atol=1e-6)
    assert streamed["train_error"].isna().all()


@pytest.mark.parametrize("class_weight", ["balanced", {0: 2.0, 9: 0.25}])
def test_streamed_ridge_weighs_classes(digits: dict, network: nn.Module, class_weight: ClassWeight) -> None:
    x, y = digits["train"]
    keep = (y > 9) | (torch.arange(len(y)) % 5 == 0)  # four classes are rare
    data = digits | {"train": (x[keep], y[keep])}
    protocol = ProbeProtocol(solvers=[Ridge()], l2=L2, stream=True, task=Classification(class_weight))
    (*_, result) = probe_checkpoint(network, data, protocol, resources=Resources(64))

    inputs, targets = data["train"][0].double(), data["train"][1].numpy()
    with torch.no_grad():
        network = deepcopy(network).double()
        features = network(inputs).numpy()
    scaled = (features - features.mean(0)) / features.std(0)
    weights = compute_sample_weight(dict(class_weight) if class_weight != "balanced" else "balanced", targets)
    onehot = (targets[:, None] == np.arange(0, 30, 3)).astype(float)
    alpha = result.record.l2 * weights.sum()
    expected = RidgeOfSklearn(alpha=alpha).fit(scaled, onehot, sample_weight=weights)
    np.testing.assert_allclose(result.head["weight"], expected.coef_, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result.head["bias"], expected.intercept_, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result.head["scale"], features.std(0), rtol=1e-5)
    assert result.record.status == "converged" and result.record.gap <= 1e-5

    unweighted = probe_checkpoint(network.float(), data, replace(protocol, task=Classification()))
    assert not np.allclose(result.head["weight"], list(unweighted)[-1].head["weight"], rtol=0.05)


def test_sums_of_each_class_that_no_memory_holds_are_refused(digits: dict, network: nn.Module) -> None:
    protocol = ProbeProtocol(solvers=[Ridge()], l2=L2, stream=True, task=Classification("balanced"))
    wide = nn.Sequential(nn.Linear(64, 5000), network[1], nn.Linear(5000, 10))
    protocol = replace(protocol, reducers=[Flatten()])
    data = {split: (x, y // 3) for split, (x, y) in digits.items()}
    with pytest.raises(ValueError, match=r"each of 10 classes.*`max_memory` allows 1 GB.*stream=false"):
        list(probe_checkpoint(wide, data, protocol, resources=Resources(max_memory="1GB")))
    with pytest.raises(ValueError, match=r"Streaming keeps [\d.]+ [kM]B of sums.*`max_memory` allows 10 kB"):
        list(probe_checkpoint(network, data, protocol, resources=Resources(max_memory="10kB")))


def test_validation_and_test_of_a_stream_find_room_on_disk(
    digits: dict, network: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    protocol = ProbeProtocol(solvers=[Ridge()], l2=L2, stream=True)
    expected = frame(network, digits, protocol)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = frame(network, digits, protocol, allowed=Budget(0, 0, 0))
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
