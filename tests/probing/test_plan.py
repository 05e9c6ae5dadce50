from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Subset, TensorDataset

import layerprobe
from layerprobe.probing.batches import n_samples
from layerprobe.probing.features import AveragePool
from layerprobe.probing.plan import make_plan
from layerprobe.probing.protocol import ProbeProtocol


def made() -> tuple[nn.Module, dict[str, tuple[Tensor, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    data = {
        split: (torch.randn(n, 1, 8, 8, generator=generator), torch.randint(3, (n,), generator=generator))
        for split, n in (("train", 700), ("val", 30), ("test", 20))
    }
    return network, data


def test_a_plan_lists_what_probing_then_does() -> None:
    network, data = made()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plan = make_plan(network, data, ProbeProtocol(reducers=(AveragePool(100),), l2=(1e-2,)))
    found = layerprobe.probe(network, data, reducer=AveragePool(100), l2=[1e-2])
    assert [layer.layer for layer in plan.layers] == found["layer"].tolist()
    assert [layer.depth for layer in plan.layers] == found["depth"].tolist()
    assert [layer.n_features for layer in plan.layers] == found["n_features"].tolist()
    assert [layer.n_features_full for layer in plan.layers] == found["n_features_full"].tolist()
    assert [layer.bytes for layer in plan.layers] == (4 * 750 * found["n_features"]).tolist()
    assert plan.samples == {"train": 700, "val": 30, "test": 20}
    assert plan.n_measured == 512
    assert plan.seconds > plan.pass_seconds > 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_where_the_first_samples_have_one_class_the_time_to_fit_is_not_known() -> None:
    network, data = made()
    data["train"] = data["train"][0], (torch.arange(700) > 650).long()
    plan = make_plan(network, data, ProbeProtocol(l2=(1e-2,)))
    assert math.isnan(plan.seconds)
    assert plan.pass_seconds > 0


def test_samples_are_counted_as_they_are_read() -> None:
    x, y = torch.randn(10, 2), torch.arange(10)
    dataset = TensorDataset(x, y)

    class Stream(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self):  # type: ignore[no-untyped-def]
            yield from zip(x, y, strict=True)

    assert n_samples((x, y)) == 10
    assert n_samples(DataLoader(dataset, 4, shuffle=True, drop_last=True)) == 10
    assert n_samples(DataLoader(dataset, 4, sampler=RandomSampler(dataset, num_samples=50, replacement=True))) == 10
    assert n_samples(DataLoader(Subset(dataset, [1, 3]), 4)) == 2
    assert n_samples(DataLoader(Stream(), 4)) == 10
    assert n_samples([{"x": x, "y": y}, {"x": x[:3], "y": y[:3]}]) == 13
