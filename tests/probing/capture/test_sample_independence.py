from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.cases import one_thread  # noqa: F401
from helpers.discovered import discover
from helpers.recorded import recorded as recorded_split
from helpers.recorded import surveyed
from layerprobe.probing.capture.activations import activations
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.capture.sample_independence import REASONS
from layerprobe.probing.features.reducers import Flatten


def samples(n: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
    return x, x[:, 1:4].argmax(1)


def recorded(
    network: nn.Module, x: Tensor, size: int, found_on: Tensor | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The features of all layers of a split, and why others have none; layers are found on its first batch."""
    layers = discover(network, x[:size] if found_on is None else found_on)
    reductions = {layer: [Flatten().fit(layer.shape, 0)] for layer in layers}
    batches = [(part, torch.zeros(len(part))) for part in x.split(size)]
    with freeze(network, seed=0) as frozen:
        found, problems = recorded_split(frozen, batches, reductions, split="val")
    return {name: features for (name, _), features in found.items()}, problems


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


def test_reordered_layers_of_every_batch_are_recorded_in_the_order_of_the_data() -> None:
    network, (x, _) = Grouped(), samples(150, 0)
    x[:2] = 1
    found, problems = recorded(network, x, 64)
    assert problems == {}
    torch.testing.assert_close(found["inner"], network.inner(x).detach())


def test_a_split_that_is_reordered_although_the_first_batch_of_train_is_not_says_so() -> None:
    network, (x, _) = Rare(), samples(64, 1)
    control, problems = recorded(network, x, 64)
    assert problems == {}
    torch.testing.assert_close(control["inner"], network.inner(x).detach())
    calm, x[5, 0] = x.clone(), 100
    _, problems = recorded(network, x, 64, found_on=calm)
    assert {"inner", "tanh"} <= problems.keys()
    assert "out" not in problems
    assert REASONS["reordered"] in problems["inner"]
    assert "val split" in problems["inner"]
    alone, problems = recorded(network, x, 1, found_on=calm)
    assert "inner" not in problems
    torch.testing.assert_close(alone["inner"], network.inner(x).detach())


def test_a_later_batch_that_is_reordered_is_noticed() -> None:
    x, _ = samples(1000, 0)
    assert recorded(Rare(), x, 256)[1] == {}
    x[700, 0] = 100
    assert "another order" in recorded(Rare(), x, 256)[1]["inner"]


def test_samples_that_meet_only_in_a_real_batch_are_left_out() -> None:
    class Capacity(nn.Module):
        """Drops what comes after the tenth sample of a kind."""

        def forward(self, x: Tensor) -> Tensor:
            kind = x[:, 0] > 0
            return (x * 1.5).masked_fill(((kind.cumsum(0) > 10) & kind)[:, None], 0)

    x, _ = samples(64, 0)
    layers, left_out = surveyed(Capacity(), x)
    assert [layer.name for layer in layers] == ["input", "getitem", "mul"]
    assert left_out["masked_fill"] in REASONS.values()
    assert "masked_fill" in [layer.name for layer in surveyed(Capacity(), x[:8])[0]]


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
        layers, left_out = surveyed(Noisy(), samples(64, 0)[0])
    assert left_out == {}
    assert not any(layer.alone for layer in layers)
    assert layers[-1].name == "add"


@pytest.mark.parametrize("source", ["torch", "numpy", "numpy of old", "python"])
def test_noise_of_a_generator_of_the_network_s_own_is_no_fault(source: str) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 8)
            self.generator = torch.Generator()
            self.numbers = np.random.RandomState(0) if source == "numpy of old" else np.random.default_rng(0)
            self.plain = random.Random(0)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            if source == "torch":
                return x + torch.randn(x.shape, generator=self.generator)
            if source == "python":
                return x + torch.tensor([[self.plain.gauss() for _ in range(8)] for _ in range(len(x))])
            return x + torch.from_numpy(self.numbers.normal(size=x.shape)).float()

    network = Noisy()
    states = network.generator.get_state(), network.plain.getstate(), repr(network.numbers.__getstate__())
    layers, left_out = surveyed(network, samples(64, 0)[0])
    assert left_out == {}
    assert layers[-1].name == "add"
    assert torch.equal(network.generator.get_state(), states[0])
    assert (network.plain.getstate(), repr(network.numbers.__getstate__())) == states[1:]


def test_checks_draw_nothing_that_recording_would_draw() -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn(x.shape)

    x, _ = samples(300, 0)
    found, problems = recorded(Noise(), x, 100)
    assert problems == {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = torch.cat([part + torch.randn(part.shape) for part in x.split(100)])
    assert torch.equal(found["add"], expected)


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
    ids[torch.arange(9) >= torch.randint(3, 10, (30, 1), generator=generator)] = 0
    ids[:2] = torch.arange(8, -1, -1)
    for left in (False, True):
        layers, left_out = surveyed(Trimmed(left), ids.flip(1) if left else ids)
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
    network, (x, _) = Streaming(), samples(200, 0)
    whole, problems = recorded(network, x, 200)
    assert problems == {}
    for size in (64, 100):
        found, problems = recorded(network, x, size)
        assert problems == {}
        torch.testing.assert_close(found["lstm.0"], whole["lstm.0"])
    assert network.state is None


def test_state_in_a_buffer_is_put_back_too() -> None:
    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            y = x + self.total
            self.total += x.detach().sum(0)
            return y

    x, _ = samples(200, 0)
    torch.testing.assert_close(recorded(Moving(), x, 50)[0]["add"], x)


def test_layers_are_equal_but_for_what_they_say() -> None:
    (layer,) = discover(nn.Identity(), samples(3, 0)[0])
    assert layer == Layer(layer.name, 0, "input", (8,), layer.aliases, layer.taps)


class Routed(Grouped):
    """A mixture of experts: each writes the rows of its samples, where there are any."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(len(x), 8)
        for expert in range(3):
            rows = x[:, 1:4].argmax(1) == expert
            if rows.any():
                hidden[rows] = (expert + 1) * x[rows]
        return self.out(self.inner(hidden.relu()))


def test_a_name_that_means_another_call_in_some_batches_is_given_up() -> None:
    """Which expert writes first depends on who else is in the batch; what comes after them does not."""
    network, (x, y) = Routed(), samples(60, 5)
    some = torch.cat([torch.arange(60), (y == 1).nonzero()[:4, 0], (y == 2).nonzero()[:2, 0]])
    found, problems = recorded(network, x[some], 60)
    assert "another number of times" in problems["setitem"]
    assert "setitem" not in found
    chosen = x[some]
    assert torch.equal(found["relu"], ((chosen[:, 1:4].argmax(1) + 1)[:, None] * chosen).relu())

    every, none = recorded(network, x, 20)
    assert "setitem" in every, "the control: all experts write in every batch"
    assert "setitem" not in none


class Experts(Grouped):
    """Sends each sample to one of two experts, of which a sample far out is served first."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, x: Tensor) -> Tensor:
        route, hidden = (x[:, :1] > 0).long(), torch.zeros_like(x)
        for expert in (1, 0) if x[:, 0].max() > 50 else (0, 1):
            hidden = torch.where(route == expert, self.experts[expert](x).sigmoid(), hidden)
        return self.out(self.inner(hidden.exp()))


def test_experts_that_are_called_in_another_order_are_told_apart() -> None:
    network, (x, _) = Experts(), samples(60, 0)
    every, problems = recorded(network, x, 20)
    assert problems == {}, "the control: one order in all batches"
    x[25, 0] = 100
    found, problems = recorded(network, x, 20)
    assert set(problems) == {"sigmoid", "where", "sigmoid#1", "where#1"}
    assert all("behind other modules" in problem for problem in problems.values())
    assert every.keys() - found.keys() == problems.keys()
    route, (zero, one) = x[:, :1] > 0, (expert(x).sigmoid() for expert in network.experts)
    torch.testing.assert_close(found["exp"], torch.where(route, one, zero).exp().detach())
