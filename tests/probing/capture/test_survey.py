from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import layerprobe
from helpers.cases import Branch, CalledTwice, Case, InPlace, MixesSamples, SkipMLP, Wrapper, each_case, one_thread  # noqa: F401
from helpers.discovered import discover
from helpers.recorded import surveyed
from layerprobe.probing.capture.layers import Layer


def names(layers: tuple[Layer, ...]) -> list[str]:
    return [layer.name for layer in layers]


@each_case
def test_finds_the_layers_that_an_independent_route_names(case: Case) -> None:
    batch = case.batch(5)
    layers = discover(case.network(), batch)
    shapes = {name: tap.shape for layer in layers for name, tap in zip(layer.names, layer.taps, strict=True)}
    expected = case.values(batch)
    assert expected.keys() <= shapes.keys()
    assert {name: shapes[name] for name in expected} == {name: tuple(x.shape[1:]) for name, x in expected.items()}
    assert not set(case.absent) & shapes.keys()

    every = [name for layer in layers for name in layer.names]
    assert len(set(every)) == len(every)
    depths = [layer.depth for layer in layers if layer.kind != "input"]
    assert depths == list(range(1, len(depths) + 1))
    assert all(layer.depth == 0 for layer in layers if layer.kind == "input")

    assert discover(case.network(), case.batch(2)) == layers
    if not case.mixes and len(layers) < 100:
        assert names(discover(case.network(), case.batch(1))) == names(layers)


@pytest.mark.parametrize(
    "mix", [lambda x: x - x.mean(0), lambda x: x / x.amax(0), lambda x: x - x[:1], lambda x: x.cumsum(0)]
)
def test_mixing_is_noticed_and_needs_two_samples_that_differ(mix: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return mix(x) * 1.5

    x = torch.randn(2, 6)
    assert names(discover(Net(), x)) == ["input"]


@pytest.mark.parametrize("granularity", ["modules", "ops"])
def test_a_packed_sequence_is_left_out_whatever_the_lengths_are(granularity: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(4, 5, batch_first=True)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])[0]

    for lengths in ([6, 6, 2, 4], [2, 6, 4, 6]):  # of the first two, which find the layers, equal and not
        layers, left_out = surveyed(Net(), (torch.randn(4, 6, 4), torch.tensor(lengths)), granularity)
        assert "is a PackedSequence" in left_out["gru.0.data"]
        assert "gru.0.data" not in names(layers)
        assert "gru.1" in names(layers)
        assert layers[-1].shape == (6, 5), "the padded form is a layer"


def test_copies_of_one_sample_hide_that_it_is_mixed() -> None:
    """Negative control of the exclusion: with one sample alone there is nothing to notice."""

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.amax(0) + x

    assert names(discover(Net(), torch.randn(2, 6))) == ["input"]
    assert names(discover(Net(), torch.randn(1, 6))) == ["input", "add"]


def test_says_why_a_tensor_is_no_layer() -> None:
    layers, left_out = surveyed(MixesSamples(), torch.randn(3, 6))
    assert names(layers) == ["input", "fc", "add", "tanh"]
    assert "mixes samples" in left_out["sub"]
    assert "more than one, grows" in left_out["matmul"]
    assert "mixes samples" in left_out["add#1"]
    assert "table" not in left_out  # it is no intermediate result of the input at all


def test_a_residual_block_is_named_as_one_would() -> None:
    torchvision = pytest.importorskip("torchvision")
    layers = discover(torchvision.models.resnet18(), torch.randn(2, 3, 32, 32))
    assert len(layers) == 69
    by_name = {layer.name: layer for layer in layers}
    inside = [name for name in by_name if name.startswith("layer1.1")]
    assert inside == [f"layer1.1.{part}" for part in ("conv1", "bn1", "relu", "conv2", "bn2", "add", "relu#1")]
    assert by_name["layer1.1.relu#1"].aliases == ("layer1.1", "layer1")
    assert by_name["layer1.1.add"].kind == "add"
    assert by_name["layer1.1.bn2"].kind == "BatchNorm2d"
    assert by_name["avgpool"].aliases == ("flatten",)
    assert by_name["avgpool"].shape == (512, 1, 1)


def test_a_block_that_ends_in_a_function_has_the_module_s_name_and_the_network_the_function_s() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.fc(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: Tensor) -> Tensor:
            return F.log_softmax(self.block(x), 1)

    assert names(discover(Net(), torch.randn(2, 4))) == ["input", "block.fc", "block", "log_softmax"]
    assert names(discover(Net(), torch.randn(2, 4), granularity="modules")) == [
        "input", "block.fc", "block", "log_softmax",
    ]  # fmt: skip


def test_aliases_are_views_and_copies_but_no_slices() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            same = [y.view(-1, 6), y.transpose(1, 2), y.mT.reshape(len(y), -1), y.clone(), y.detach(), y.double()]
            same += [y.mT.contiguous(), y[:], y.data, F.dropout(y, training=False)]
            other = [y[:, :1], y[:, ::2][:, :1] + 0, y.flip(1), y.float() + 0]
            return torch.cat([part.flatten(1).float() for part in (*same, *other)], 1)

    layers, _ = surveyed(Net(), torch.randn(2, 2, 3))
    by_name = {layer.name: layer for layer in layers}
    assert {
        "view",
        "transpose",
        "reshape",
        "clone",
        "detach",
        "double",
        "contiguous",
        "getitem",
        "data",
        "dropout",
    } <= {*by_name["mul"].aliases}
    assert {"getitem#1", "getitem#3", "flip", "add", "add#1", "cat"} <= by_name.keys() | {
        alias for layer in layers if layer.name != "mul" for alias in layer.aliases
    }


def test_two_slices_of_the_same_size_are_two_layers() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :2] + x[:, ::2] + x[:, 2:]

    assert names(discover(Net(), torch.randn(2, 4))) == ["input", "getitem", "getitem#1", "add", "getitem#2", "add#1"]


def test_in_place_changes_make_new_layers() -> None:
    assert names(discover(InPlace(), torch.randn(2, 6))) == [
        "input", "first", "relu", "second", "add", "mul", "setitem", "relu#1",
    ]  # fmt: skip


def test_discovery_leaves_the_inputs_alone() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu_() * 2

    x = torch.randn(4, 3)
    before = x.clone()
    layers = discover(Net(), x)
    assert names(layers) == ["input", "relu", "mul"]
    assert torch.equal(x, before)


def test_a_plain_wrapper_is_transparent() -> None:
    x = torch.randn(2, 6)
    bare = names(discover(CalledTwice(), x))
    wrapped = Wrapper()
    assert names(discover(wrapped, x)) == bare
    assert names(discover(nn.Sequential(CalledTwice()), x)) == ["input", *(f"0.{name}" for name in bare[1:-1]), "0"]

    class Scaling(Wrapper):
        def forward(self, x: Tensor) -> Tensor:
            return self.network(x / 2)

    assert names(discover(Scaling(), x))[1:3] == ["div", "network.fc"]

    class Twice(Wrapper):
        def forward(self, x: Tensor) -> Tensor:
            self.network(x)
            return self.network(x)

    assert names(discover(Twice(), x))[1] == "network.fc"


def test_a_wrapped_linear_map_keeps_its_name() -> None:
    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x)

    assert names(discover(Regression(), torch.randn(4, 3))) == ["input", "network"]


def test_granularities() -> None:
    torchvision = pytest.importorskip("torchvision")
    network, x = torchvision.models.resnet18(), torch.randn(2, 3, 32, 32)
    modules = discover(network, x, granularity="modules")
    blocks = discover(network, x, granularity="blocks")
    assert len(modules) == 69 - 8
    assert not any(layer.kind == "add" for layer in modules)
    stages = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    assert names(blocks) == ["input", "conv1", "bn1", "relu", "maxpool", *stages, "avgpool", "fc"]
    assert blocks[6].aliases == ("layer1",)
    with pytest.raises(ValueError, match=r"granularity 'layers'.*ops, modules, blocks"):
        discover(network, x, granularity="layers")  # type: ignore[arg-type]


def test_blocks_of_a_transformer_with_stem_and_head() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 8)
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 3)
            self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.stem(x)))

    found = names(discover(Net(), torch.randn(2, 5, 4), granularity="blocks"))
    assert found == ["input", "stem", *(f"encoder.layers.{index}" for index in range(3)), "head"]


def test_blocks_beside_one_another_stay_closed() -> None:
    class Inception(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4)))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.wide(x)

    class Net(nn.Module):
        def __init__(self, n_blocks: int) -> None:
            super().__init__()
            for index in range(n_blocks):
                self.add_module(f"block{index}", Inception())

        def forward(self, x: Tensor) -> Tensor:
            for block in self.children():
                x = block(x)
            return x

    x = torch.randn(2, 4)
    assert names(discover(Net(3), x, granularity="blocks")) == ["input", "block0", "block1", "block2"]
    # Two of a kind may be two networks side by side.
    inside = [f"block{block}{part}" for block in range(2) for part in (".wide.0", ".wide.1", "")]
    assert names(discover(Net(2), x, granularity="blocks")) == ["input", *inside]


def test_without_repeated_blocks_the_children_are_listed() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert names(discover(network, torch.randn(2, 3), granularity="blocks")) == ["input", "0", "1", "2"]
    found = discover(SkipMLP(), torch.randn(2, 16), granularity="blocks")
    assert names(found)[:3] == ["input", "layers.0", "layers.1"]


def test_depth_does_not_depend_on_the_patterns() -> None:
    network, x = InPlace(), torch.randn(2, 6)
    every = {layer.name: layer.depth for layer in discover(network, x)}
    some = discover(network, x, include=["first", "se*"], exclude="setitem")
    assert {layer.name: layer.depth for layer in some} == {"first": every["first"], "second": every["second"]}


def test_an_alias_that_matches_shows_the_layer_under_it() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(8, 2))
    (layer,) = discover(network, torch.randn(2, 1, 4, 4), include="2")
    assert (layer.name, layer.kind, layer.shape, layer.depth) == ("2", "Flatten", (8,), 2)
    assert layer.aliases == ("1", "3")
    (layer,) = discover(network, torch.randn(2, 1, 4, 4), include=("1", "2", "3"), exclude="3")
    assert (layer.name, layer.shape) == ("1", (2, 2, 2))


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_a_pattern_without_a_match_is_named(argument: str) -> None:
    with pytest.raises(ValueError) as error:
        discover(SkipMLP(), torch.randn(2, 16), **{argument: ["*", "layer.3"]})
    message = str(error.value)
    assert "'layer.3'" in message
    assert argument in message
    assert "layers.3" in message
    assert "input, layers.0" in message
    assert "more)" in message


def test_brackets_in_a_name_can_be_written_as_they_are() -> None:
    class Net(nn.Module):
        def forward(self, a: Tensor, **others: Tensor) -> Tensor:
            return a + others["b[0]"]

    batch = {"a": torch.randn(2, 3), "b[0]": torch.randn(2, 3)}
    assert names(discover(Net(), batch, include="input.b[0]")) == ["input.b[0]"]
    assert names(discover(Net(), batch, include="input.[ab]*")) == ["input.a", "input.b[0]"]


@pytest.mark.parametrize(
    ("inputs", "error", "match"),
    [
        ("text", TypeError, "str"),
        ([1, 2], ValueError, "no tensor with a batch axis"),
        ((torch.tensor(1.0),), ValueError, "no tensor with a batch axis"),
        (torch.zeros(0, 6), ValueError, "empty batch"),
    ],
)
def test_unusable_inputs(inputs: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        discover(CalledTwice(), inputs)  # type: ignore[arg-type]


def test_a_network_without_layers_says_so() -> None:
    class Argmax(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            return (ids.float().mean(0) + 1).argmax(0)

    layers, left_out = surveyed(Argmax(), torch.ones(3, 4, dtype=torch.long), granularity="modules")
    assert layers == ()
    assert set(left_out) == {"input", "argmax"}
    assert all("holds int64" in reason for reason in left_out.values())
    with pytest.raises(ValueError, match="no layers"):
        discover(Argmax(), torch.ones(3, 4, dtype=torch.long), granularity="modules")


@pytest.mark.parametrize(("dtype", "listed"), [(torch.float16, True), (torch.uint8, True), (torch.int64, False)])
def test_pixels_are_an_input_layer_and_token_ids_are_not(dtype: torch.dtype, listed: bool) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float() + 1

    layers = discover(Net(), torch.ones(3, 4).to(dtype))
    assert ("input" in names(layers)) == listed
    assert layers[-1].name == "add"
    assert layers[-1].depth == 1 + (not listed)


def test_an_error_in_the_network_comes_through_with_a_note() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("missing")

    with pytest.raises(KeyError, match="missing") as error:
        discover(Net(), torch.randn(2, 3))
    assert "2 samples" in error.value.__notes__[0]


def test_random_layers_are_not_taken_for_mixing() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.dropout(self.fc(x))  # also in eval mode, a common slip
            return x + torch.randn_like(x)

    assert names(discover(Noisy(), torch.randn(3, 5))) == ["input", "fc", "dropout", "add"]


def test_batch_statistics_in_use_are_mixing() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False))
    layers, left_out = surveyed(network, torch.randn(3, 4))
    assert names(layers) == ["input", "0"]
    assert "mixes samples" in left_out["1"]


def test_lazy_modules_are_made_as_by_a_first_call() -> None:
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2)).train()
    assert names(discover(network, torch.randn(2, 3, 6, 6))) == ["input", "0", "1", "3"]
    assert all(module.training for module in network.modules())


def test_a_function_unknown_to_torch_is_named_by_its_module() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return torch.from_numpy(x.numpy() * 2)

    class Custom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Double.apply(x)

    assert names(discover(nn.Sequential(Custom(), nn.ReLU()), torch.randn(2, 3))) == ["input", "0", "1"]
    assert names(discover(Custom(), torch.randn(2, 3))) == ["input", "output"]


def test_scripted_modules_show_their_output() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    assert names(discover(scripted, torch.randn(2, 3))) == ["input", "output"]
    inside = nn.Sequential(nn.Linear(5, 3), scripted, nn.Linear(4, 2))
    assert names(discover(inside, torch.randn(2, 5))) == ["input", "0", "1", "2"]


def test_compiled_networks_and_parts_are_looked_through() -> None:
    network = nn.Sequential(nn.Linear(3, 4), torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU())))
    assert names(discover(network, torch.randn(2, 3))) == ["input", "0", "1.0", "1.1"]
    assert names(discover(torch.compile(network), torch.randn(2, 3))) == ["input", "0", "1.0", "1.1"]
    in_place = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    in_place.compile()
    assert names(discover(in_place, torch.randn(2, 3))) == ["input", "0", "1"]


def test_wrappers_for_several_devices_are_looked_through() -> None:
    network = nn.DataParallel(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    assert names(discover(network, torch.randn(2, 3))) == ["input", "0", "1"]


def test_a_module_that_raises_is_left_again() -> None:
    class Fallback(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.broken = nn.Linear(3, 3), Broken()

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            try:
                return self.broken(x)
            except RuntimeError:
                return x * 3

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError

    assert names(discover(Fallback(), torch.randn(2, 3))) == ["input", "first", "mul"]


def test_a_branch_not_taken_is_not_listed() -> None:
    network = Branch()
    assert "cold" not in names(discover(network, torch.randn(2, 6)))
    assert "cold" in names(discover(network, 1e6 * torch.randn(2, 6)))


def test_named_as_an_input_module() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.input(x) * 2

    assert names(discover(Net(), torch.randn(2, 3))) == ["input", "input#1", "mul"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_inputs_of_another_precision_than_the_networks_are_told_of(dtype: torch.dtype) -> None:
    network, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).to(dtype), torch.zeros(4, 3)
    with pytest.raises(TypeError, match=rf"computes in {dtype}, and its inputs are torch.float32: .*to\({dtype}\)"):
        layerprobe.layers(network, x)
    assert len(layerprobe.layers(network, x.to(dtype)))
    with pytest.raises(RuntimeError, match="must have the same dtype"):  # what no other precision mends
        layerprobe.layers(network, torch.zeros(4, 5))
