from __future__ import annotations

import math

import pytest
import torch
from torchvision.models import inception_v3

from helpers.discovered import discover
from layerprobe.models.inception import InceptionWithAuxiliary
from layerprobe.probing.capture.activations import activations

LAYERS = ["maxpool1", "Conv2d_3b_1x1", "maxpool2", "Mixed_??", "AuxLogits", "avgpool", "fc"]


@pytest.fixture(scope="module")
def network() -> InceptionWithAuxiliary:
    torch.manual_seed(0)
    return InceptionWithAuxiliary(inception_v3(weights=None, init_weights=False)).eval()


def test_the_probes_are_the_papers_by_what_it_states_of_them(network):
    layers = discover(network, torch.randn(2, 3, 299, 299), granularity="modules", include=LAYERS)
    sizes = [math.prod(layer.shape) for layer in layers]
    assert (len(layers), sum(size > 100_000 for size in sizes), max(sizes)) == (17, 13, 426_320)
    assert "AuxLogits" in [layer.name for layer in layers]


def test_the_auxiliary_head_is_evaluated_and_the_rest_is_as_without_it(network):
    x = torch.randn(2, 3, 299, 299)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        scores, auxiliary = network(x)
        torch.testing.assert_close(scores, network.network(x))
        found = activations(network, x, ["AuxLogits", "Mixed_6e", "fc"], granularity="modules")
        # In eval mode, the head's batch normalisation uses its running statistics: one image gives what two give.
        torch.testing.assert_close(network(x[:1])[1], auxiliary[:1], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(network.network.AuxLogits(found["Mixed_6e"]), auxiliary)
    torch.testing.assert_close(found["AuxLogits"], auxiliary)
    torch.testing.assert_close(found["fc"], scores)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module.training for module in network.modules())


def test_a_network_without_the_head_is_refused():
    with pytest.raises(ValueError, match="aux_logits=True"):
        InceptionWithAuxiliary(inception_v3(weights=None, init_weights=False, aux_logits=False))
