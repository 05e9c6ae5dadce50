from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hydra.core.override_parser.overrides_parser import OverridesParser
from torch import Tensor, nn

from helpers.cases import one_thread  # noqa: F401
from helpers.discovered import discover
from helpers.recorded import recorded
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.discovery import discover_layers
from layerprobe.probing.features.reducers import AveragePool, ChannelMean, Flatten
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources


def axes(network: nn.Module, x: Any, granularity: str = "modules") -> dict[str, int | None]:
    return {
        layer.name: layer.channel_axis
        for layer in discover(network, x, granularity=granularity)
        if len(layer.shape) > 1
    }


def reduced(network: nn.Module, x: Tensor, *reducers: Any) -> dict[str, list[tuple[str, Tensor]]]:
    """What probing makes of each layer: descriptions and features, in the order of the reducers."""
    y = torch.arange(len(x)) % 2
    protocol = ProbeProtocol(reducers=reducers)
    with freeze(network) as frozen:
        ways = discover_layers(frozen, {"train": [(x, y)]}, protocol, Resources()).ways
        reductions = {layer: [way.reduction for way in of] for layer, of in ways.items()}
        features, _ = recorded(frozen, [(x, y)], reductions, protocol)
    found: dict[str, list[tuple[str, Tensor]]] = {}
    for (layer, description), values in features.items():
        found.setdefault(layer, []).append((description, values))
    return found


def small_swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4])


def small_convnext() -> nn.Module:
    block = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([block(24, 48, 2), block(48, None, 2)])


@pytest.mark.parametrize(("build", "last"), [(small_swin, True), (small_convnext, False)])
def test_channels_of_networks_with_them_last_in_some_layers(build: Callable[[], nn.Module], last: bool) -> None:
    """The independent route: hooks, and the width that each stage is given."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, x = build().eval(), torch.randn(3, 3, 64, 64)
    stages = {"features.1": (24, 16), "features.3": (48, 8)}
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: outputs.__setitem__(name, output.detach().clone())

    blocks = {path: module for path, module in network.named_modules() if path.rpartition(".")[0] in stages}
    handles = [module.register_forward_hook(keep(path)) for path, module in blocks.items()]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    found = reduced(network, x, ChannelMean(), AveragePool(100))
    for path, output in outputs.items():
        channels, side = stages[path.rpartition(".")[0]]
        assert output.shape == ((3, side, side, channels) if last else (3, channels, side, side))
        (mean_text, mean), (pool_text, pool), *_ = found[path]
        torch.testing.assert_close(mean, output.mean((1, 2) if last else (2, 3)), rtol=1e-4, atol=1e-5)
        assert ("(channel axis 2)" in mean_text) == ("(channel axis 2)" in pool_text) == last
        if channels == 48:
            torch.testing.assert_close(pool, mean, rtol=1e-4, atol=1e-5)
        else:
            grid = output.movedim(-1, 1) if last else output
            torch.testing.assert_close(pool, F.adaptive_avg_pool2d(grid, 2).flatten(1), rtol=1e-4, atol=1e-5)
    assert len(outputs) == 4, "positive control"
    assert found["features.0.0"][0][0] == "mean 24x16x16 -> 24", "a convolution's channels are first in both"


class Mixed(nn.Module):
    """Channels first, then last, all axes of one size."""

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.conv, self.norm, self.mlp = nn.Conv2d(3, size, 3, padding=1), nn.LayerNorm(size), nn.Linear(size, size)
        self.drop, self.scale = nn.Dropout(), nn.Parameter(torch.ones(size))
        self.act, self.back = nn.GELU(), nn.BatchNorm2d(size)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = y.permute(0, 2, 3, 1)
        z = z + self.scale * self.act(self.mlp(self.drop(self.norm(z))))
        return self.back(self.drop(z).permute(0, 3, 1, 2).contiguous()).mean((2, 3))


def test_axes_are_told_where_sizes_are_the_same() -> None:
    found = axes(Mixed(), torch.randn(2, 3, 6, 6), "ops")
    assert found == {
        "input": 0, "conv": 0, "norm": 2, "mlp": 2, "act": 2, "mul": 2, "add": 2, "back": 0,
    }  # fmt: skip


class Recipe(nn.Module):
    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        pytest.param(
            nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 4, 3)), (3, 2, 20),
            {"input": 0, "0": 0, "1": 0, "2": 0, "3": 0}, id="audio",
        ),
        pytest.param(
            nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.LayerNorm(8)), (3, 4, 5), {"input": 1, "0": 1, "1": 1, "2": 1},
            id="tokens",
        ),
        pytest.param(
            nn.Sequential(nn.Conv3d(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU()), (2, 1, 5, 5, 5),
            {"input": 0, "0": 0, "1": 0, "2": 0}, id="volumes",
        ),
        pytest.param(
            Recipe(lambda m, x: m.conv(x.permute(0, 3, 1, 2)), conv=nn.Conv2d(3, 3, 3)), (2, 3, 3, 3),
            {"input": 2, "conv": 0}, id="images that come with their channels last",
        ),
        pytest.param(
            Recipe(lambda m, x: m.lin(m.act(m.conv(x)).flatten(2).mT).relu(), conv=nn.Conv2d(3, 5, 3), act=nn.ReLU(),
                   lin=nn.Linear(5, 9)), (2, 3, 5, 5),
            {"input": 0, "conv": 0, "act": 0, "lin": 1, "relu": 1}, id="patches become tokens",
        ),
        pytest.param(
            Recipe(lambda m, x: m.out(m.norm(x).mT.contiguous()).mT, norm=nn.LayerNorm(4), out=nn.Conv1d(4, 4, 1)),
            (2, 4, 4), {"input": 1, "norm": 1, "out": 0}, id="tokens through a convolution",
        ),
        pytest.param(
            Recipe(lambda m, x: m.norm(x.reshape(-1, 2, 3, 3, 2, 5).transpose(2, 3).reshape(-1, 6, 6, 5)).neg().relu(),
                   norm=nn.RMSNorm(5)), (2, 6, 6, 5),
            {"input": 2, "norm": 2, "relu": 2}, id="windows",
        ),
    ],
)  # fmt: skip
def test_what_a_network_does_says_which_axis_it_is(
    network: nn.Module, shape: tuple[int, ...], expected: dict[str, int]
) -> None:
    assert axes(network, torch.randn(shape)) == expected


def test_a_convolution_over_time_keeps_its_channels() -> None:
    network, x = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU()), torch.randn(3, 2, 20)
    (text, features), *_ = reduced(network, x, ChannelMean())["1"]
    assert text == "mean 8x18 -> 8 (channel axis 0)"
    torch.testing.assert_close(features, network(x).detach().mean(2))


class Silent(nn.Module):
    """Does nothing that says which axis is which."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


def test_where_nothing_says_so_the_default_is_kept_and_a_warning_says_it(caplog: pytest.LogCaptureFixture) -> None:
    square, plain = torch.randn(3, 5, 5, 5), torch.randn(3, 2, 5, 5)
    assert axes(Silent(), square, "ops") == {"input": None, "sin": None}
    with caplog.at_level(logging.WARNING):
        assert reduced(Silent(), plain, ChannelMean())["sin"][0][0] == "mean 2x5x5 -> 2"
        reduced(Silent(), square, Flatten())
        reduced(Silent(), square, AveragePool(1000))
        assert not caplog.records, "negative controls: a shape that is plain, features that do not depend on it"
        assert reduced(Silent(), square, ChannelMean())["sin"][0][0] == "mean 5x5x5 -> 5"
    assert "which axis of these layers holds the channels: input (5x5x5), sin (5x5x5)" in caplog.text
    assert "reducer.channel_mean.channel_axis={PATTERN: AXIS}" in caplog.text


def test_patterns_say_it_layer_by_layer(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(3, 3, 6, 6)
    found = reduced(Mixed(), x, ChannelMean(channel_axis={"nor*": 1, "mlp": -1}))
    assert found["norm"][0][0] == "mean 6x6x6 -> 6 (channel axis 1)"
    assert found["mlp"][0][0] == "mean 6x6x6 -> 6 (channel axis 2)"
    assert found["conv"][0][0] == "mean 6x6x6 -> 6", "no pattern: as found"
    assert reduced(Mixed(), x, ChannelMean(channel_axis=0))["norm"][0][0] == "mean 6x6x6 -> 6", "one for all, as before"
    silent = torch.randn(3, 4, 4, 4)
    with caplog.at_level(logging.WARNING):
        reduced(Silent(), silent, ChannelMean(channel_axis={"*": -1}))
    assert not caplog.records, "it has been said"
    with pytest.raises(ValueError, match="no layer matches the pattern 'norms'"):
        reduced(Mixed(), x, ChannelMean(channel_axis={"norms": -1}))


def test_patterns_can_be_written_on_a_command_line() -> None:
    (override,) = OverridesParser.create().parse_overrides(
        ["reducer.channel_mean.channel_axis={features.*.norm*: -1, features.0.0: 0}"]
    )
    assert override.value() == {"features.*.norm*": -1, "features.0.0": 0}
