from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.init import xavier_normal_

from helpers.discovered import discover
from layerprobe.models.deep_mlp import DeepMLP
from layerprobe.probing.capture.activations import activations


def by_hand(network: DeepMLP, x: torch.Tensor, slope: float) -> list[torch.Tensor]:
    """h_0, h_1, …, scores, in float64 from the weights alone."""
    hidden, outputs = x.flatten(1).double(), []
    for k, layer in enumerate(network.layers):
        if network.skip is not None and k == network.skip[1]:
            hidden = hidden + outputs[network.skip[0]]
        linear = hidden @ layer.preact.weight.double().T + layer.preact.bias.double()
        hidden = torch.where(linear > 0, linear, slope * linear)
        outputs.append(hidden)
    return [*outputs, hidden @ network.logits.weight.double().T + network.logits.bias.double()]


@st.composite
def networks(draw: st.DrawFn) -> DeepMLP:
    depth = draw(st.integers(1, 9))
    ends = [(s, t) for s in range(depth) for t in range(s + 2, depth)]
    skip = draw(st.sampled_from([None, *ends]))
    torch.manual_seed(draw(st.integers(0, 99)))
    return DeepMLP((2, 3), 3, depth, draw(st.integers(1, 5)), nn.LeakyReLU(0.5), skip, xavier_normal_)


@settings(max_examples=25)
@given(networks())
def test_every_block_is_the_layer_of_that_number(network: DeepMLP) -> None:
    x = torch.randn(4, 2, 3)
    found = activations(network, x, granularity="blocks")
    expected = by_hand(network, x, 0.5)
    names = [f"layers.{k}" for k in range(len(network.layers))]
    assert [layer.name for layer in discover(network, x, granularity="blocks")] == ["input", *names, "logits"]
    for name, value in zip([*names, "logits"], expected, strict=True):
        torch.testing.assert_close(found[name].double(), value, rtol=1e-4, atol=1e-5)


def test_the_network_of_the_paper_has_129_layers_after_the_input() -> None:
    torch.manual_seed(0)
    network = DeepMLP((1, 28, 28), 10, 128, 128, nn.LeakyReLU(0.5), (0, 64), xavier_normal_)
    layers = discover(network, torch.randn(2, 1, 28, 28), granularity="blocks", exclude="input")
    assert [layer.name for layer in layers] == [*(f"layers.{k}" for k in range(128)), "logits"]
    assert [layer.depth for layer in layers] == list(range(1, 130))


def test_the_skip_changes_the_layers_from_its_end_on_and_no_others() -> None:
    torch.manual_seed(0)
    network = DeepMLP((5,), 3, 6, 4, nn.Tanh(), (1, 4), xavier_normal_)
    x = torch.randn(3, 5)
    with_skip = activations(network, x, granularity="blocks")
    network.skip = None
    without = activations(network, x, granularity="blocks")
    same = [torch.equal(with_skip[f"layers.{k}"], without[f"layers.{k}"]) for k in range(6)]
    assert same == [True, True, True, True, False, False]


def test_layers_do_not_share_a_module() -> None:
    activation = nn.PReLU()
    network = DeepMLP((5,), 3, 3, 4, activation, None, xavier_normal_)
    assert len({id(layer.postact) for layer in network.layers} | {id(activation)}) == 4


@pytest.mark.parametrize("skip", [(0, 1), (2, 1), (0, 4), (-1, 3), (0, 2, 3)])
def test_a_skip_that_leads_nowhere_is_refused(skip: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="skip="):
        DeepMLP((5,), 3, 4, 4, nn.ReLU(), skip, xavier_normal_)


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="depth=0"):
        DeepMLP((5,), 3, 0, 4, nn.ReLU(), None, xavier_normal_)
