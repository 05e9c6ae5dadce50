from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.init import xavier_normal_

from helpers.discovered import discover
from layerprobe.models.deep_convnet import DeepConvNet
from layerprobe.probing.capture.activations import activations


def test_the_layers_are_those_of_a_forward_pass_by_hand() -> None:
    torch.manual_seed(0)
    network = DeepConvNet((2, 5, 5), 3, 3, 4, nn.Tanh(), xavier_normal_)
    x = torch.randn(3, 2, 5, 5)
    found = activations(network, x, granularity="blocks")
    layers = discover(network, x, granularity="blocks")
    assert [layer.name for layer in layers] == ["input", "layers.0", "layers.1", "layers.2", "logits"]
    hidden = x
    for k in range(3):
        hidden = torch.tanh(F.conv2d(hidden, network.layers[k].preact.weight, network.layers[k].preact.bias, padding=1))
        torch.testing.assert_close(found[f"layers.{k}"], hidden)
    torch.testing.assert_close(found["logits"], F.linear(hidden.flatten(1), network.logits.weight))


def test_without_an_activation_the_network_is_one_affine_map() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 1, 6, 6).double(), torch.randn(2, 1, 6, 6).double()
    for activation, is_affine in ((nn.Identity(), True), (nn.GELU(), False)):
        network = DeepConvNet((1, 6, 6), 3, 4, 4, activation, xavier_normal_).double()
        middle = network((x + y) / 2)
        assert torch.allclose(middle, (network(x) + network(y)) / 2) == is_affine


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="depth=0"):
        DeepConvNet((1, 6, 6), 3, 0, 4, nn.ReLU(), xavier_normal_)
