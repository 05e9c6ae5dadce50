from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

import layerprobe
from helpers.discovered import discover

pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:.*torch.jit.script")


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x)


class Bins(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.round().long()


class Quantised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Result:
    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Said(nn.Module):
    def forward(self, x: Tensor) -> Result:
        return Result("nothing")


class Net(nn.Module):
    """One part of each kind that is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.spectrum, self.bins, self.quantised, self.centred = Spectrum(), Bins(), Quantised(), Centred()
        self.said = Said()
        self.unused = nn.Sequential(nn.Linear(6, 3))
        self.loss = nn.MSELoss()
        self.scripted = torch.jit.script(nn.Sequential(nn.Linear(6, 4), nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        self.said(x)
        y = self.spectrum(x).real + self.bins(x) + self.quantised(x).dequantize() + self.centred(x)
        return self.scripted(y)


REASONS = {
    "spectrum": "complex64",
    "bins": "int64",
    "quantised": "quantised",
    "centred": "mixes samples",
    "said": "Result",
    "scripted.0": "TorchScript",
    "unused": "never called",
}


def batch() -> Tensor:
    return torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


def test_lists_layers_and_what_is_left_out_with_the_reason() -> None:
    found = layerprobe.layers(Net(), batch())
    assert [layer.name for layer in found.layers][:2] == ["input", "fc"]
    for name, reason in REASONS.items():
        assert reason in found.left_out[name]
    assert not {"fc", "unused.0", "loss"} & found.left_out.keys(), "parts of one, and what has no parameters"
    frame = found.frame.set_index("layer")
    assert frame.loc["fc", "left_out"] == ""
    assert frame.loc["fc", "shape"] == "6"
    assert "complex64" in frame.loc["spectrum", "left_out"]
    text = str(found)
    assert "Left out:" in text
    assert all(name in text for name in REASONS)
    plain = layerprobe.layers(nn.Linear(6, 3), batch())
    assert plain.left_out == {}
    assert "Left out" not in str(plain)


@pytest.mark.parametrize("name", REASONS)
def test_a_pattern_that_matches_only_what_is_left_out_says_why(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*{REASONS[name]}") as error:
        discover(Net(), batch(), granularity="modules", include=name)
    assert "left out" in str(error.value)
    with pytest.raises(ValueError, match="no layer matches the pattern"):
        discover(nn.Linear(6, 3), batch(), granularity="modules", include=name)


def test_what_is_left_out_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    network = nn.Sequential(nn.Linear(6, 6), Centred(), nn.Linear(6, 7))
    with caplog.at_level(logging.INFO, logger="layerprobe"):
        for _ in range(3):  # as at three checkpoints
            layerprobe.activations(network, batch(), granularity="modules")
    assert sum("Left out" in message for message in caplog.messages) == 1


class Graph(nn.Module):
    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return x.index_add(0, edges[1], x[edges[0]])


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        return [self.conv(image) for image in images]


def test_inputs_that_cannot_be_cut_along_axis_0_say_what_to_pass() -> None:
    edges = torch.tensor([[0, 4, 7], [5, 1, 2]])
    with pytest.raises(ValueError, match=r"cut along axis 0.*\(2, 3\) \(kept whole\).*`inputs`"):
        layerprobe.layers(Graph(), (torch.randn(8, 4), edges))
    with pytest.raises(ValueError, match=r"cut along axis 0.*lists of images.*`inputs`"):
        layerprobe.layers(Detector(), ([torch.randn(3, 9, 9), torch.randn(3, 7, 7)],))
    with pytest.raises(TypeError, match=r"2 positional.*axis 0.*`inputs`"):
        layerprobe.layers(Detector(), [torch.randn(3, 9, 9), torch.randn(3, 7, 7)])
    jagged = torch.nested.nested_tensor([torch.randn(3, 4), torch.randn(2, 4)], layout=torch.jagged)
    with pytest.raises(ValueError, match=r"jagged.*`inputs`"):
        layerprobe.layers(nn.Linear(4, 2), jagged)
