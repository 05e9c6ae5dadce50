from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.cases import Branch, Case, InPlace, LSTMClassifier, each_case, one_thread  # noqa: F401
from helpers.discovered import discover
from layerprobe.probing.capture.activations import activations, record
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.capture.survey import survey


def hook_counts(network: nn.Module) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()]


@each_case
def test_activations_are_those_of_an_independent_route(case: Case) -> None:
    network, batch = case.network(), case.batch(4)
    found = activations(network, batch)
    assert all(len(value) == 4 for value in found.values())
    assert_expected(case, batch, found)

    shown = [layer.under(name) for layer in discover(network, batch) for name in layer.names]
    assert sorted(found) == sorted(layer.name for layer in shown)
    smaller = case.batch(3)
    copies: dict[str, Tensor] = {}

    def copy_all(layer: Layer, activation: Tensor) -> None:
        assert activation.shape == (3, *layer.shape)
        copies[layer.name] = activation.clone()

    hooks = hook_counts(network)
    with freeze(network) as frozen:
        assert record(frozen, smaller, shown, copy_all) == []
    assert copies.keys() == found.keys()
    assert_expected(case, smaller, copies)
    assert hook_counts(network) == hooks
    assert all(module.training for module in network.modules())


def assert_expected(case: Case, batch: Any, found: Mapping[str, Tensor]) -> None:
    for name, value in case.values(batch).items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_stock_trap() -> None:
    """Torchvision's resnet18 overwrites `bn1` by an in-place ReLU before anyone looks at a stored tensor."""
    torchvision = pytest.importorskip("torchvision")
    network, x = torchvision.models.resnet18().eval(), torch.randn(2, 3, 64, 64)
    found = activations(network, x, ["bn1", "relu", "layer1.0.bn1"])
    assert list(found) == ["bn1", "relu", "layer1.0.bn1"]
    assert found["bn1"].min() < 0
    assert found["layer1.0.bn1"].min() < 0
    assert torch.equal(found["bn1"].clamp(min=0), found["relu"])

    stored: dict[str, Tensor] = {}  # the negative control: what a hook that only stores has in the end
    network.bn1.register_forward_hook(lambda module, args, output: stored.update(bn1=output))
    with torch.no_grad():
        network(x)
    assert torch.equal(stored["bn1"], found["relu"])


def test_storing_instead_of_copying_goes_wrong() -> None:
    """Negative control of the table's in-place network."""
    network, x = InPlace(), torch.randn(3, 6)
    layers = discover(network, x)
    stored: dict[str, Tensor] = {}
    with freeze(network) as frozen:
        record(frozen, x, layers, lambda layer, activation: stored.update({layer.name: activation}))
    found = activations(network, x)
    assert not torch.equal(stored["first"], found["first"])
    assert torch.equal(stored["relu#1"], found["relu#1"])


def test_results_are_ordinary_tensors() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Flatten())
    found = activations(network, torch.randn(2, 3))
    assert list(found) == ["input", "0", "1"]
    for value in found.values():
        assert not value.is_inference()
        assert not value.requires_grad
        assert value.is_contiguous()
    found["0"].mul_(2)
    assert not torch.equal(found["0"], found["1"])
    (found["1"] @ torch.randn(4, 1, requires_grad=True)).sum().backward()


def test_aliases_keep_the_shape_they_have() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(), nn.Flatten())
    found = activations(network, torch.randn(5, 1, 4, 4))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "input": (5, 1, 4, 4), "0": (5, 2, 2, 2), "1": (5, 2, 2, 2), "2": (5, 8),
    }  # fmt: skip
    assert list(activations(network, torch.randn(5, 1, 4, 4), "2")) == ["2"]
    assert list(activations(network, torch.randn(5, 1, 4, 4), exclude="1")) == ["input", "0", "2"]
    assert list(activations(network, torch.randn(5, 1, 4, 4), granularity="blocks")) == ["input", "0", "1", "2"]
    with pytest.raises(ValueError, match=r"'fc'"):
        activations(network, torch.randn(5, 1, 4, 4), "fc")


def test_samples_come_first_wherever_the_network_has_them() -> None:
    network, tokens = LSTMClassifier(batch_first=False), torch.randint(20, (3, 7))
    found = activations(network, tokens)
    assert found["lstm.0"].shape == (3, 7, 10)
    assert found["lstm.1.0"].shape == (3, 2, 5)
    one = activations(network, tokens[1:2])
    torch.testing.assert_close(one["lstm.1.0"][0], found["lstm.1.0"][1])


def test_folded_samples_are_unfolded() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.view(-1, 2)).view(len(x), -1) + 1

    network, x = Windows(), torch.randn(4, 6)
    found = activations(network, x)
    assert found["fc"].shape == (4, 3, 2)
    torch.testing.assert_close(found["fc"], network.fc(x.view(4, 3, 2)).detach())


def test_samples_folded_the_other_way_are_unfolded() -> None:
    class Views(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            both = torch.cat([x, -x]) * 2
            return both[: len(x)] + both[len(x) :]

    x = torch.randn(4, 6)
    found = activations(Views(), x)
    assert list(found) == ["input", "neg", "cat", "mul", "getitem", "getitem#1", "add"]
    torch.testing.assert_close(found["mul"], 2 * torch.stack([x, -x], 1))
    torch.testing.assert_close(activations(Views(), x[:1])["mul"], found["mul"][:1])


def test_a_batch_beside_what_is_the_same_for_all_is_unfolded() -> None:
    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            beside = torch.cat([x, torch.zeros_like(x)]) + 1
            between = torch.stack([x, torch.zeros_like(x)], 1).view(-1, x.shape[1]) + 2
            return beside[: len(x)] + between[::2]

    x = torch.randn(4, 6)
    found = activations(Padded(), x)
    rows = torch.stack([x, torch.zeros_like(x)], 1)
    torch.testing.assert_close(found["add"], rows + 1)
    torch.testing.assert_close(found["add#1"], rows + 2)


def test_time_and_samples_merged_with_time_first_are_told_apart() -> None:
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gru = nn.Conv1d(3, 4, 1), nn.GRU(4, 5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            merged = self.conv(x.transpose(0, 1).reshape(-1, 3, 1)).view(x.shape[1], len(x), 4).transpose(0, 1)
            lengths = torch.full((len(x),), x.shape[1])
            packed = nn.utils.rnn.pack_padded_sequence(merged, lengths, batch_first=True)
            return self.gru(packed)[1][-1]

    network, x = TimeFirst(), torch.randn(6, 5, 3)
    found = activations(network, x)
    tokens = network.conv(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(found["conv"], tokens.detach()[..., None])
    torch.testing.assert_close(found["gru.0.data"], network.gru(tokens)[0].detach())


def test_random_copies_of_a_batch_stay_with_their_samples() -> None:
    class Draws(nn.Module):
        """Monte Carlo dropout, all draws at once: one batch after the other along the axis over samples."""

        def forward(self, x: Tensor) -> Tensor:
            drawn = nn.functional.dropout(x.repeat(8, 1), 0.3, training=True)
            return drawn.view(8, len(x), -1).mean(0)

    x = torch.arange(1.0, 8.0)[:, None].repeat(1, 40)
    drawn = activations(Draws(), x)["dropout"]
    assert drawn.shape == (7, 8, 40)
    own = torch.arange(1.0, 8.0)[:, None, None].expand(drawn.shape)
    torch.testing.assert_close(torch.where(drawn > 0, 0.7 * drawn, own), own.contiguous())


def test_what_runs_in_a_transform_is_left_out() -> None:
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights, self.energy = nn.Parameter(torch.randn(3, 6, 4)), nn.Linear(4, 1)
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.vmap(lambda weight: torch.relu(x @ weight))(self.weights).mean(0)
            return self.fc(h + torch.func.grad(lambda z: self.energy(z.tanh()).sum())(h))

    network, x = Ensemble(), torch.randn(4, 6)
    with freeze(network) as frozen:
        found = survey(frozen, x)
    assert [layer.name for layer in found.layers] == ["input", "mean", "add", "fc"]
    assert list(found.left_out) == ["energy"]
    assert "torch.func" in found.left_out["energy"]
    torch.testing.assert_close(activations(network, x)["mean"], torch.relu(x @ network.weights).mean(0).detach())


def test_names_what_a_batch_does_not_reach() -> None:
    network = Branch()
    x = torch.randn(3, 6)
    layers = discover(network, x)
    with freeze(network) as frozen:
        missing = record(frozen, 1e6 * x, layers, lambda layer, activation: None)
    assert missing == ["warm", "relu"]
    assert "warm" not in activations(network, torch.cat([x, 1e6 * x]))


def test_names_what_has_another_shape_unless_asked_not_to() -> None:
    network = nn.Sequential(nn.Conv1d(2, 3, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(3, 2))
    layers = discover(network, torch.randn(2, 2, 8))
    shapes: dict[str, Any] = {}

    def note(layer: Layer, activation: Tensor) -> None:
        shapes[layer.name] = tuple(activation.shape)

    with freeze(network) as frozen:
        assert record(frozen, torch.randn(5, 2, 9), layers, note) == ["input", "0"]
        assert shapes == {"1": (5, 3, 1), "3": (5, 2)}
        assert record(frozen, torch.randn(5, 2, 9), layers, note, same_shape=False) == []
    assert shapes["0"] == (5, 3, 7)


def test_everything_is_back_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True))
    network[1].eval()
    x = torch.randn(4, 3)
    layers = discover(network, x)
    before = copy.deepcopy(network.state_dict())
    hooks = hook_counts(network)

    def fail(layer: Layer, activation: Tensor) -> None:
        if layer.name == "1":
            raise RuntimeError("full disk")

    with pytest.raises(RuntimeError, match="full disk"), freeze(network) as frozen:
        record(frozen, x, layers, fail)
    assert hook_counts(network) == hooks
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.overrides._get_current_function_mode_stack() == []
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_what_the_callee_computes_is_not_taken_for_the_network() -> None:
    network = InPlace()
    x = torch.randn(3, 6)
    layers = discover(network, x)
    sums: dict[str, Tensor] = {}

    def reduce(layer: Layer, activation: Tensor) -> None:
        sums[layer.name] = (activation + activation).mul(3).sum()

    with freeze(network) as frozen:
        assert record(frozen, x, layers, reduce) == []
    found = activations(network, x)
    for name, total in sums.items():
        torch.testing.assert_close(total, found[name].sum() * 6)


def test_hooks_of_the_user_run_and_what_they_gather_is_put_back() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    calls: list[int] = []
    network[0].register_forward_hook(lambda module, args, output: calls.append(1) or output * 2)
    x = torch.randn(2, 3)
    found = activations(network, x)
    assert not calls
    torch.testing.assert_close(found["0"], 2 * (x @ network[0].weight.T + network[0].bias).detach())
    assert len(network[0]._forward_hooks) == 1


def test_a_layer_is_ordinary_whatever_the_network_turns_on() -> None:
    class Net(nn.Module):
        def __init__(self, mode: torch.inference_mode | torch.enable_grad) -> None:
            super().__init__()
            self.fc, self.mode = nn.Linear(3, 3), mode

        def forward(self, x: Tensor) -> Tensor:
            with self.mode:
                return self.fc(x)

    for mode in (torch.inference_mode(), torch.enable_grad()):
        (found,) = activations(Net(mode), torch.randn(2, 3), "fc").values()
        assert not found.requires_grad
        assert not found.is_inference()


def test_the_input_is_left_alone_and_recorded_as_given() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1).relu()

    x = torch.randn(4, 3)
    before = x.clone()
    found = activations(Net(), x)
    assert torch.equal(x, before)
    assert torch.equal(found["input"], before)
    assert torch.equal(found["add"], before + 1)


def test_activations_do_not_depend_on_train_mode_and_change_nothing() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    x = torch.randn(6, 3)
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    found = activations(network, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        assert torch.equal(found["3"], copy.deepcopy(network).eval()(x))
        assert not torch.equal(found["3"], copy.deepcopy(network)(x))  # negative control


def test_works_under_inference_mode_and_no_grad() -> None:
    network, x = InPlace(), torch.randn(3, 6)
    expected = activations(network, x)
    for mode in (torch.inference_mode(), torch.no_grad(), freeze(network)):
        with mode:
            found = activations(network, x.clone())
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_compiled_networks_give_the_original_s_activations() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
    x = torch.randn(3, 3)
    expected = activations(network, x)
    found = activations(torch.compile(network), x)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert found.keys() == expected.keys()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_inputs_are_moved_to_the_network() -> None:
    network = InPlace().cuda()
    found = activations(network, torch.randn(3, 6))
    assert all(value.is_cuda for value in found.values())


def test_inputs_are_moved_to_the_network_s_device() -> None:
    network = nn.Linear(3, 2).to("meta")
    found: list[torch.device] = []
    network.register_forward_hook(lambda module, args, output: found.append(args[0].device))
    with freeze(network) as frozen:
        record(frozen, torch.randn(2, 3), (), lambda layer, activation: None)
        assert found == [torch.device("meta")]
