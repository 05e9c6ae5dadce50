from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from layerprobe.training.checkpoints import CheckpointError
from layerprobe.training.weights import put_weights


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


class Wrapped(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.loss = nn.CrossEntropyLoss()


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 2)))


def prefixed(prefix: str, weights: Any) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model.module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrap", [False, True])
def test_whatever_it_is_wrapped_in(prefix: str, wrap: bool) -> None:
    source, target = small(), small()
    network = Wrapped(target) if wrap else target
    put_weights(network, prefixed(prefix, source.state_dict()))
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_what_lies_beside_the_network_is_left_out() -> None:
    source, target = small(), small()
    put_weights(target, prefixed("net.", source.state_dict()) | {"loss.weight": torch.ones(2)})
    assert torch.equal(target[0].weight, source[0].weight)  # type: ignore[index]


def test_another_width_is_told_by_the_shapes_whatever_the_prefix() -> None:
    wider = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 2)))
    with pytest.raises(CheckpointError) as caught:
        put_weights(small(), prefixed("module.", wider.state_dict()))
    assert "0.weight (8x3 in the checkpoint, 4x3 in the network)" in str(caught.value)
    assert "not in the network: 2.1.weight, 2.1.bias" in str(caught.value)
    assert "missing" not in str(caught.value)


def test_one_of_several_networks_by_its_prefix() -> None:
    student, teacher, target = small(), small(), small()
    both = prefixed("student.", student.state_dict()) | prefixed("teacher.", teacher.state_dict())
    with pytest.raises(CheckpointError, match=r"Several parts.*student., teacher.*prefix="):
        put_weights(target, both)
    put_weights(target, both, prefix="teacher.")
    assert torch.equal(target[0].weight, teacher[0].weight)  # type: ignore[index]
    with pytest.raises(CheckpointError, match=r"no weights under 'teachr.'; its parts are student., teacher."):
        put_weights(target, both, prefix="teachr.")


def test_a_tied_weight_and_an_old_batch_norm_need_not_be_given() -> None:
    source, target = Tied(), Tied()
    put_weights(target, {"embed.weight": source.embed.weight})
    assert torch.equal(target.head.weight, source.embed.weight)
    old = {name: value for name, value in small().state_dict().items() if not name.endswith("num_batches_tracked")}
    put_weights(small(), old)
    with pytest.raises(CheckpointError, match=r"missing from the checkpoint: 1\.running_var"):
        put_weights(small(), {name: value for name, value in old.items() if name != "1.running_var"})


def test_a_lazy_network_takes_the_shapes_of_the_checkpoint() -> None:
    source, target = nn.Sequential(nn.Linear(3, 4)), nn.Sequential(nn.LazyLinear(4))
    put_weights(target, source.state_dict())
    assert torch.equal(target[0].weight, source[0].weight)


def test_another_architecture_is_one_short_error() -> None:
    resnet = torchvision.models.resnet18()
    before = copy.deepcopy(resnet.state_dict())
    with pytest.raises(CheckpointError) as error:
        put_weights(resnet, torchvision.models.resnet50().state_dict())
    message = str(error.value)
    assert "not those of ResNet" in message
    assert re.search(r"not in the network: \S+, \S+, \S+, … \(\d+ more\)", message)
    assert "layer1.0.conv1.weight (64x64x1x1 in the checkpoint, 64x64x3x3 in the network)" in message
    assert len(message) < 800
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())
    with pytest.raises(CheckpointError, match=r"Sequential: missing from the checkpoint: 0.weight, 0.bias"):
        put_weights(small(), torchvision.models.resnet18().state_dict())
    with pytest.raises(
        CheckpointError, match=re.escape("fc.weight (1000x512 in the checkpoint, 10x512 in the network)")
    ):
        put_weights(torchvision.models.resnet18(num_classes=10), before)
