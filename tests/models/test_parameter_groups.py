import copy
from functools import partial

import pytest
import torch
from torch import nn

from layerprobe.models.parameter_groups import decay_only

PATTERNS = ["fc.*", "logits.weight"]
DECAYED = {"fc.weight", "fc.bias", "logits.weight"}


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = {"conv": nn.Linear(6, 5), "fc": nn.Linear(5, 4), "act": nn.Tanh(), "logits": nn.Linear(4, 3)}
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network.double()


def test_decay_is_the_gradient_of_an_added_penalty():
    decayed, penalised = _network(), _network()
    ours = decay_only(
        decayed.named_parameters(), PATTERNS, partial(torch.optim.SGD, lr=0.05, momentum=0.9), weight_decay=0.1
    )
    theirs = torch.optim.SGD(penalised.parameters(), lr=0.05, momentum=0.9)
    inputs, targets = torch.randn(20, 6, dtype=torch.float64), torch.randint(3, (20,))
    start = copy.deepcopy(decayed.state_dict())
    for _ in range(25):
        for network, optimizer, factor in ((decayed, ours, 0.0), (penalised, theirs, 0.1)):
            penalty = sum(p.square().sum() for name, p in network.named_parameters() if name in DECAYED)
            optimizer.zero_grad()
            (nn.functional.cross_entropy(network(inputs), targets) + 0.5 * factor * penalty).backward()
            optimizer.step()
    for name, parameter in decayed.named_parameters():
        torch.testing.assert_close(parameter, penalised.get_parameter(name), rtol=0, atol=1e-12)
        assert (parameter - start[name]).abs().max() > 1e-3


def test_every_parameter_is_in_one_group_with_its_name():
    network = _network()
    optimizer = decay_only(network.named_parameters(), PATTERNS, partial(torch.optim.SGD, lr=0.1), weight_decay=0.1)
    decayed, others = optimizer.param_groups
    assert set(decayed["param_names"]) == DECAYED
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert sorted(decayed["param_names"] + others["param_names"]) == sorted(dict(network.named_parameters()))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))


def test_a_pattern_may_match_all():
    optimizer = decay_only(_network().named_parameters(), ["*"], partial(torch.optim.SGD, lr=0.1), weight_decay=0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1]


def test_a_pattern_that_matches_nothing_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"'fc2\.\*' matches no parameter; there are: conv\.weight"):
        decay_only(_network().named_parameters(), ["fc.*", "fc2.*"], partial(torch.optim.SGD, lr=0.1), weight_decay=0.1)
