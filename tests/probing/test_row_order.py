from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cases import one_thread  # noqa: F401
from layerprobe.probing.activations import activations
from layerprobe.probing.layers import Layer, discover, survey
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.types import LayerResult


def samples(n: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
    return x, x[:, 1:4].argmax(1)


def probed(network: nn.Module, data: Mapping[Any, Any] | None = None, **settings: Any) -> dict[str, LayerResult]:
    data = data or {"train": samples(200, 0), "val": samples(100, 1), "test": samples(100, 2)}
    protocol = ProbeProtocol(**{"l2": (1e-2,), "granularity": "ops", "batch_size": 64} | settings)
    return {result.record.layer: result for result in probe_checkpoint(network, data, protocol)}


class Grouped(nn.Module):
    """Works on its samples grouped by kind, and puts them back."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(8, 16), nn.Linear(16, 3)
        with torch.no_grad():
            for module in (self.inner, self.out):
                module.weight.normal_(generator=torch.Generator().manual_seed(0))
                module.bias.zero_()

    def order(self, x: Tensor) -> Tensor:
        return (x[:, 0] > 0).int().argsort(stable=True)

    def forward(self, x: Tensor) -> Tensor:
        order = self.order(x)
        return self.out(self.inner(x[order]).tanh()[order.argsort()])


class Plain(Grouped):
    """The control: the same without a reason to reorder."""

    def order(self, x: Tensor) -> Tensor:
        return torch.arange(len(x))


class Rare(Grouped):
    """Reorders only where a batch has a sample far out."""

    def order(self, x: Tensor) -> Tensor:
        return x[:, 0].argsort() if x[:, 0].max() > 50 else torch.arange(len(x))


@pytest.mark.parametrize("identical", [False, True])
def test_rows_are_put_into_the_order_of_the_data(identical: bool) -> None:
    network, (x, _) = Grouped(), samples(40, 3)
    x[:2] = x[0].abs() if identical else x[:2].abs()  # no reason to reorder the first two
    layers = {layer.name: layer for layer in discover(network, x)}
    assert layers["inner"].alone
    assert layers["tanh"].alone
    assert not layers["out"].alone
    found = activations(network, x)
    torch.testing.assert_close(found["inner"], network.inner(x).detach())
    torch.testing.assert_close(found["out"], network.out(network.inner(x).tanh()).detach())
    assert not any(layer.alone for layer in discover(Plain(), x))


def test_reordered_layers_are_paired_with_their_own_labels() -> None:
    train = samples(200, 0)
    train[0][:2] = 1
    data = {"train": train, "val": samples(100, 1), "test": samples(100, 2)}
    grouped, plain = (probed(network, data, layers="inner")["inner"] for network in (Grouped(), Plain()))
    assert grouped.record.status == "converged"
    assert grouped.record.test_error < 0.2
    torch.testing.assert_close(grouped.head["weight"], plain.head["weight"], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_that_is_reordered_although_train_is_not_fails_with_its_reason(split: str) -> None:
    data = {"train": samples(200, 0), "val": samples(100, 1), "test": samples(100, 2)}
    data[split][0][5, 0] = 100
    found = probed(Rare(), data, layers=["inner", "out"])
    assert found["inner"].record.status == "failed"
    assert f"{split} split" in found["inner"].record.message
    assert "another order" in found["inner"].record.message
    assert found["out"].record.status == "converged"
    alone = probed(Rare(), data, layers=["inner"], batch_size=1)
    assert alone["inner"].record.status == "converged"


def test_a_later_batch_that_is_reordered_is_noticed() -> None:
    data = {"train": samples(1000, 0), "val": samples(100, 1), "test": samples(100, 2)}
    data["train"][0][700, 0] = 100
    assert "train split" in probed(Rare(), data, layers=["inner"], batch_size=256)["inner"].record.message
    data["train"][0][700, 0] = 0
    assert probed(Rare(), data, layers=["inner"], batch_size=256)["inner"].record.message == ""


def test_samples_that_meet_only_in_a_real_batch_are_left_out() -> None:
    class Capacity(nn.Module):
        """Drops what comes after the tenth sample of a kind."""

        def forward(self, x: Tensor) -> Tensor:
            kind = x[:, 0] > 0
            return (x * 1.5).masked_fill(((kind.cumsum(0) > 10) & kind)[:, None], 0)

    x, _ = samples(64, 0)
    layers, left_out = survey(Capacity(), x)
    assert [layer.name for layer in layers] == ["input", "getitem", "mul"]
    assert "mixes samples" in left_out["masked_fill"]
    assert "masked_fill" in [layer.name for layer in survey(Capacity(), x[:8])[0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_and_noise_are_no_fault(dtype: torch.dtype) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(20)])

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return F.dropout(x) + torch.randn_like(x)

    torch.manual_seed(0)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        layers, left_out = survey(Noisy(), samples(64, 0)[0])
    assert left_out == {}
    assert not any(layer.alone for layer in layers)
    assert layers[-1].name == "add"


def test_checks_draw_nothing_that_recording_would_draw() -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn(x.shape)

    data = {"train": samples(200, 0), "val": samples(100, 1), "test": samples(100, 2)}
    found = probed(Noise(), data, layers="add", batch_size=200)["add"].head
    torch.manual_seed(0)
    expected = (data["train"][0] + torch.randn(200, 8)).mean(0)
    torch.testing.assert_close(found["mean"].float(), expected)


def test_padding_to_the_longest_of_a_batch_is_no_fault() -> None:
    class Trimmed(nn.Module):
        def __init__(self, left: bool) -> None:
            super().__init__()
            self.left, self.embed = left, nn.Embedding(20, 6)

        def forward(self, ids: Tensor) -> Tensor:
            longest = int((ids != 0).sum(1).max())
            ids = ids[:, -longest:] if self.left else ids[:, :longest]
            return self.embed(ids)

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 20, (30, 9), generator=generator)
    ids[:2, 8] = 0
    ids[torch.arange(9) >= torch.randint(3, 9, (30, 1), generator=generator)] = 0
    for left in (False, True):
        layers, left_out = survey(Trimmed(left), ids.flip(1) if left else ids)
        assert "embed" in [layer.name for layer in layers]
        assert not any("mixes" in reason or "order" in reason for reason in left_out.values())


class Streaming(nn.Module):
    """An LSTM that goes on from where the last batch ended."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        with torch.no_grad():
            for parameter in self.lstm.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(0))
        self.state: tuple[Tensor, ...] | None = None

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.lstm(x[:, None], self.state)
        self.state = tuple(part.detach() for part in state)
        return y[:, -1]


def test_state_is_put_back_before_each_batch() -> None:
    """Also with a last batch that is shorter, which the state of the one before would not fit."""
    network = Streaming()
    results = [probed(network, granularity="modules", batch_size=size)["lstm.0"] for size in (64, 100, 200)]
    assert network.state is None
    for other in results[1:]:
        torch.testing.assert_close(other.head["mean"], results[0].head["mean"])
        torch.testing.assert_close(other.head["weight"], results[0].head["weight"], rtol=1e-3, atol=1e-4)


def test_state_in_a_buffer_is_put_back_too() -> None:
    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            y = x + self.total
            self.total += x.detach().sum(0)
            return y

    small, large = (probed(Moving(), layers="add", batch_size=size)["add"].head["mean"] for size in (50, 200))
    torch.testing.assert_close(small, large)


def test_layers_are_equal_but_for_what_they_say() -> None:
    (layer,) = discover(nn.Identity(), samples(3, 0)[0])
    assert layer == Layer(layer.name, 0, "input", (8,), layer.aliases, layer.taps)
