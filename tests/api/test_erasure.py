"""Erasure in the forward pass: the layer's features are the erased ones, and the network is as it was afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import layerprobe
from layerprobe.api.head import ProbeHead
from layerprobe.probing.analyses import erasers

Pairs = dict[str, tuple[Tensor, Tensor]]


def made(shape: tuple[int, ...] = (6,), classes: int = 3) -> Pairs:
    random = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(classes, *shape, generator=random)
    data = {}
    for split, n in (("train", 240), ("val", 60), ("test", 90)):
        y = torch.randint(classes, (n,), generator=random)
        y[: n // 4] = 0  # the majority is one class
        data[split] = (centres[y] + torch.randn(n, *shape, generator=random), y)
    return data


def trained(network: nn.Module, data: Pairs) -> nn.Module:
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(data["train"][0]), data["train"][1]).backward()
        optimizer.step()
    optimizer.zero_grad()
    return network


def seeded(build: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        built: nn.Module = build()
        return built


class Skip(nn.Module):
    """A network whose output goes by `used`, and passes `unused` by: from it nothing is taken but what is added."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.used(x)) + 0 * self.unused(x).sum(1, keepdim=True)


class Tokens(nn.Module):
    """Words of numbers, and what is at the last that is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.body(x)
        return self.last(hidden[torch.arange(len(x)), attention_mask.sum(1) - 1])


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3))


def linear_traces(features: Any, y: Tensor) -> float:
    """The largest correlation of any feature with any class."""
    x, z = torch.as_tensor(features).double(), nn.functional.one_hot(y).double()
    rounding = 1e-3 * float(x.norm())  # of a feature that is constant by now
    x, z = x - x.mean(0), z - z.mean(0)
    return float(((x.T @ z).abs() / (x.norm(dim=0).clamp_min(rounding)[:, None] * z.norm(dim=0))).max())


@pytest.mark.parametrize("reducer", ["flatten", "channel_mean", layerprobe.RandomSubset(10)])
def test_the_features_are_the_erased_ones_in_every_pass(reducer: Any) -> None:
    data = made((2, 6, 6))
    net = trained(seeded(convolutional), data)
    x, y = data["train"]
    results = layerprobe.probe(net, data, reducer=reducer, layers=["input", "0"], l2=[1e-2], progress=False)
    for head in results.heads.values():
        assert linear_traces(head.features(net, x), y) > 0.1
        with head.erased(net, x, y) as without:
            recorded = captured(without, head, x)
        again = head.decision_function(recorded)
        assert linear_traces(head.features(net, x), y) > 0.1
        assert linear_traces(activation_features(head, recorded), y) < 1e-4
        assert len(again) == len(x)


def captured(network: nn.Module, head: ProbeHead, x: Tensor) -> Tensor:
    """What the layer hands on in a pass, as what comes after it is given."""
    found: list[Tensor] = []
    if head.record.layer == "input":
        hook = network.register_forward_pre_hook(lambda module, args: found.append(args[0].clone()))
    else:
        module = network.get_submodule(head.record.layer)
        hook = module.register_forward_hook(lambda module, args, output: found.append(output.clone()))
    with torch.no_grad():
        network(x.clone())
    hook.remove()
    return found[0]


def activation_features(head: ProbeHead, activation: Tensor) -> Tensor:
    from layerprobe.probing.inference_features import reduced_features

    return reduced_features(activation, head.record, head._recipe)


def test_a_layer_that_the_output_needs_and_one_that_it_does_not() -> None:
    data = made()
    net = trained(seeded(Skip), data)
    results = layerprobe.probe(net, data, l2=[1e-2], progress=False)
    found = layerprobe.erasure(net, data, results).set_index("layer")
    with torch.no_grad():
        own = float((net(data["test"][0]).argmax(1) != data["test"][1]).double().mean())
    assert (found["error"] == own).all()
    assert found.loc["unused", "test_error"] < 0.2
    assert found.loc["unused", "erased_error"] == own
    assert found.loc["used", "erased_error"] > 0.5
    assert found.loc["used", "erased_error_low"] < found.loc["used", "erased_error"]
    assert set(found["reason"]) <= {"", found.loc["add", "reason"] if "add" in found.index else ""}


def test_data_are_what_probe_made_of_them() -> None:
    splits = made()
    net = trained(seeded(lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))), splits)
    pair = tuple(torch.cat([splits[split][part] for split in splits]) for part in (0, 1))

    def wrong(x: Tensor, y: Tensor) -> float:
        with torch.no_grad():
            return float((net(x).argmax(1) != y).double().mean())

    results = layerprobe.probe(net, pair, l2=[1e-2], layers="0", seed=3, progress=False)
    rows = results.correct.index.tolist()
    found = layerprobe.erasure(net, pair, results)
    assert found["error"][0] == wrong(pair[0][rows], pair[1][rows]), "divided by the same seed"
    assert found["erased_error"][0] > found["error"][0]

    module = pl.LightningDataModule()
    for split, (x, y) in splits.items():
        loader = DataLoader(TensorDataset(x, y), batch_size=64)
        setattr(module, f"{split}_dataloader", lambda loader=loader: loader)
    results = layerprobe.probe(net, splits, l2=[1e-2], layers="0", progress=False)
    pd.testing.assert_frame_equal(
        layerprobe.erasure(net, module, results), layerprobe.erasure(net, splits, results), rtol=1e-4
    )

    x, y = splits["test"]
    several = {**splits, "test": {"in": (x[:40], y[:40]), "shifted": (x + 1, y)}}
    results = layerprobe.probe(net, several, l2=[1e-2], layers="0", progress=False)
    assert layerprobe.erasure(net, several, results)["error"][0] == wrong(x[:40], y[:40]), "of the primary test set"
    with pytest.raises(ValueError, match="of the test set 'in'; the data have test"):
        layerprobe.erasure(net, splits, results)


def test_tokens_are_changed_where_they_are_read() -> None:
    random = torch.Generator().manual_seed(0)
    data = {}
    for split, n in (("train", 150), ("val", 50), ("test", 60)):
        y, length = torch.randint(3, (n,), generator=random), torch.randint(2, 6, (n,), generator=random)
        x = torch.randn(n, 5, 4, generator=random)
        x[torch.arange(n), length - 1] += 3 * nn.functional.one_hot(y, 4)
        data[split] = ({"x": x, "attention_mask": (torch.arange(5) < length[:, None]).long()}, y)
    net = seeded(Tokens)
    results = layerprobe.probe(net, data, reducer="last_token", layers="body", l2=[1e-2], progress=False)
    inputs, y = data["train"]
    head = results.heads["body"]
    plain = captured_tokens(net, inputs)
    with head.erased(net, inputs, y):
        changed = captured_tokens(net, inputs)
    place = inputs["attention_mask"].sum(1) - 1
    same = torch.arange(5) != place[:, None]
    assert torch.equal(plain[same], changed[same])
    rows = torch.arange(len(y))
    assert linear_traces(plain[rows, place], y) > 0.1
    assert linear_traces(changed[rows, place], y) < 1e-4


def captured_tokens(net: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    found: list[Tensor] = []
    hook = net.body.register_forward_hook(lambda module, args, output: found.append(output.clone()))  # type: ignore[union-attr,operator]
    with torch.no_grad():
        net(**inputs)
    hook.remove()
    return found[0]


def test_nothing_is_left_behind_whatever_happens() -> None:
    data = made((2, 6, 6))
    net = trained(
        seeded(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))), data
    )
    results = layerprobe.probe(net, data, l2=[1e-2], progress=False)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    draws, x = torch.random.get_rng_state(), data["test"][0]
    net.eval()
    with torch.no_grad():
        before = net(x)
    net.train()
    layerprobe.erasure(net, data, results, ["0", "1"])
    with pytest.raises(RuntimeError, match="own"), results.heads["0"].erased(net, *data["train"]):
        raise RuntimeError("own")
    assert all(
        module.training and not module._forward_hooks and not module._forward_pre_hooks for module in net.modules()
    )
    assert torch.equal(draws, torch.random.get_rng_state())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    net.eval()
    with torch.no_grad():
        assert torch.equal(net(x), before)


def test_what_cannot_be_erased_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made((2, 6, 6))
    net = seeded(convolutional)
    pooled = layerprobe.probe(net, data, reducer=layerprobe.AveragePool(36), layers="0", l2=[1e-2], progress=False)
    assert "cannot be changed one by one" in layerprobe.erasure(net, data, pooled)["reason"][0]
    assert np.isnan(layerprobe.erasure(net, data, pooled)["erased_error"][0])
    with pytest.raises(ValueError, match="No layer with a head matches 'conv'"):
        layerprobe.erasure(net, data, pooled, "conv")
    with (
        pytest.raises(ValueError, match="240 inputs and 90 targets"),
        pooled.heads["0"].erased(net, data["train"][0], data["test"][1]),
    ):
        pass
    wide = nn.Sequential(net, nn.Unflatten(1, (3, 1)))
    results = layerprobe.probe(wide, data, layers="0.0", l2=[1e-2], progress=False)
    with pytest.raises(TypeError, match="a score for each sample and class"):
        layerprobe.erasure(wide, data, results)
    monkeypatch.setattr(erasers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'layerprobe\[erasure\]'"):
        layerprobe.erasure(net, data, pooled)
