from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Subset, TensorDataset

import layerprobe
from layerprobe.probing.batches import n_samples
from layerprobe.probing.budget import budget as budget_of
from layerprobe.probing.budget import feature_cache
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.cost.plan import make_plan, read_in_passes
from layerprobe.probing.discovery import discover_layers
from layerprobe.probing.features.cache import places
from layerprobe.probing.features.reducers import AveragePool
from layerprobe.probing.passes import Passes
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.probing.solvers.ridge import Ridge


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


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_few_training_samples_are_planned_with(n: int) -> None:
    network, data = made()
    few = {**data, "train": (data["train"][0][:n], torch.arange(n) % 3)}
    plan = make_plan(network, few, ProbeProtocol(l2=(1e-2,)))
    assert [layer.layer for layer in plan.layers] == layerprobe.probe(network, few, l2=[1e-2])["layer"].tolist()
    assert plan.seconds > plan.pass_seconds > 0


def test_no_plan_of_one_training_sample_names_its_class() -> None:
    network, data = made()
    one = {**data, "train": (data["train"][0][:1], torch.tensor([2]))}
    for ask in (lambda: make_plan(network, one, ProbeProtocol(l2=(1e-2,))), lambda: layerprobe.probe(network, one)):
        with pytest.raises(ValueError, match="has the class 2 only"):
            ask()


def test_everything_is_kept_in_memory_where_there_is_room() -> None:
    network, data = made()
    plan = make_plan(network, data, ProbeProtocol(l2=(1e-2,)))
    assert {layer.place for layer in plan.layers} == {"memory"}
    assert plan.disk == 0
    assert plan.memory == plan.workspace + sum(layer.bytes for layer in plan.layers)


@pytest.mark.parametrize("spill_dtype", [None, "bfloat16"])
def test_what_a_plan_says_goes_to_disk_is_what_the_bank_writes_there(
    tmp_path: Path, spill_dtype: Literal["bfloat16"] | None
) -> None:
    network, data = made()
    plan = make_plan(network, data, ProbeProtocol(l2=(1e-2,)))
    sizes = {layer.layer: layer.bytes for layer in plan.layers}
    for budget in (sum(sizes.values()), sum(sizes.values()) - 1, max(sizes.values()), 1):
        protocol = ProbeProtocol(l2=(1e-2,), spill_dtype=spill_dtype)
        resources = Resources(64, plan.workspace + budget + 10**6, str(tmp_path))
        with freeze(network) as frozen:
            found = discover_layers(frozen, data, protocol, resources)
            cache = feature_cache(protocol, resources, budget_of(None, protocol, resources, found), plan.samples)
            Passes(frozen, data, protocol, resources).record(found.ways, cache)
        planned = make_plan(network, data, protocol, resources=resources)
        assert {layer.layer for layer in planned.layers if layer.place == "disk"} == cache.on_disk
        share = 1 if spill_dtype is None else 2
        assert planned.disk * share == sum(sizes[name] for name in cache.on_disk)
        assert planned.memory == planned.workspace + sum(sizes.values()) - planned.disk * share
        cache.close()


def test_a_layer_is_read_in_every_pass_where_it_finds_no_room_when_its_turn_comes() -> None:
    sizes = {"a": 40, "b": 100, "c": 60}
    # b's turn comes when a is done and c still held: 70 bytes of train beside 60.
    place = places(sizes, 130, 0)
    assert place == {"a": "memory", "b": "disk", "c": "memory"}
    assert read_in_passes(sizes, place, 130, 0.7) == set()
    assert read_in_passes(sizes, place, 129, 0.7) == {"b"}
    assert read_in_passes(sizes, places(sizes, 60, 0), 60, 0.7) == {"b"}
    assert read_in_passes(sizes, places(sizes, 60, 1000), 60, 0.7) == set(), "a GPU reads the machine's memory"


def test_streaming_keeps_no_training_feature() -> None:
    network, data = made()
    kept, plan = (
        make_plan(network, data, ProbeProtocol(stream=stream, solvers=(Ridge(),), l2=(1e-2,)))
        for stream in (False, True)
    )
    n = kept.samples
    others = (n["val"] + n["test"]) / sum(n.values())
    for layer, before in zip(plan.layers, kept.layers, strict=True):
        assert layer.bytes == others * before.bytes
    moments = sum(8 * layer.n_features**2 for layer in plan.layers)
    assert plan.memory == kept.workspace + moments + sum(layer.bytes for layer in plan.layers)
    assert "train streamed" in plan.lines()[0]
    assert "streamed" not in kept.lines()[0]


def test_more_samples_cost_more_and_a_plan_can_be_made_for_them() -> None:
    network, data = made()
    thousand = {"train": 700_000, "val": 30_000, "test": 20_000}
    few, many = (
        make_plan(network, data, ProbeProtocol(l2=(1e-2,))),
        make_plan(network, data, ProbeProtocol(l2=(1e-2,)), samples=thousand),
    )
    assert many.samples == thousand
    assert sum(layer.bytes for layer in many.layers) == 1000 * sum(layer.bytes for layer in few.layers)
    assert many.seconds > 30 * few.seconds


def test_layers_that_are_done_are_left_out() -> None:
    network, data = made()
    plan = make_plan(network, data, ProbeProtocol(l2=(1e-2,)), done=("input", "3"))
    assert [layer.layer for layer in plan.layers] == ["0", "1"]


def test_planning_moves_no_random_generator() -> None:
    network, data = made()
    state = torch.get_rng_state()
    make_plan(network, data, ProbeProtocol(l2=(1e-2,)))
    assert torch.equal(torch.get_rng_state(), state)


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
