"""A table of networks that every test of capture runs over, with some of their layers by an independent route.

The independent routes are: a forward pass written by hand, hooks that copy at once, or a library's own hidden states.
All weights are random and all samples differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Case:
    """A network, how to call it, and what some of its layers hold.

    Attributes:
        name: Name in the tests' output.
        build: Makes the network, with random weights.
        inputs: Makes a batch of a given size.
        expected: Some layers' activations by an independent route, samples first.
        absent: Names that may not be listed.
        mixes: Whether samples meet inside, which a batch of one does not show.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    expected: Callable[[nn.Module, Any], Mapping[str, Tensor]]
    absent: tuple[str, ...] = ()
    mixes: bool = False

    def network(self) -> nn.Module:
        """The network, in train mode, the same object at every call."""
        return _network(self.build)

    def batch(self, n_samples: int) -> Any:
        """The first samples of one fixed stream."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return _first(self.inputs(8), n_samples)

    def values(self, batch: Any) -> Mapping[str, Tensor]:
        """The expected activations, computed in eval mode without gradients."""
        network = self.network()
        network.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad():
                return self.expected(network, batch)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
            network.train()


@cache
def _network(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().train()


def _first(value: Any, n_samples: int) -> Any:
    if isinstance(value, Tensor):
        return value[:n_samples]
    if isinstance(value, Mapping):
        return {key: _first(item, n_samples) for key, item in value.items()}
    return tuple(_first(item, n_samples) for item in value)


def call(network: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return network(batch)
    return network(**batch) if isinstance(batch, Mapping) else network(*batch)


def copied_by_hooks(network: nn.Module, batch: Any, paths: Sequence[str]) -> dict[str, Tensor]:
    """Outputs of modules that are called once, copied by hooks at once."""
    copies: dict[str, Tensor] = {}

    def hook_for(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            copies[path] = (output[0] if isinstance(output, tuple) else output).clone()

        return hook

    handles = [network.get_submodule(path).register_forward_hook(hook_for(path)) for path in paths]
    try:
        call(network, batch)
    finally:
        for handle in handles:
            handle.remove()
    return copies


def hooked(*paths: str) -> Callable[[nn.Module, Any], Mapping[str, Tensor]]:
    return lambda network, batch: copied_by_hooks(network, batch, paths)


def images(size: int, channels: int = 3) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, channels, size, size)


def vectors(size: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, size)


# Networks written for one trap each


class InPlace(nn.Module):
    """Every operation after the first overwrites its argument."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        y = self.second(x)
        y += x
        y.mul_(2)
        y[:, 0] = 7
        return F.relu(y, inplace=True)


def in_place_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    first = x @ network.first.weight.T + network.first.bias
    relu = first.clamp(min=0)
    second = relu @ network.second.weight.T + network.second.bias
    total = second + relu
    double = total * 2
    column = torch.cat([torch.full_like(double[:, :1], 7), double[:, 1:]], 1)
    return {
        "input": x, "first": first, "relu": relu, "second": second, "add": total, "mul": double,
        "setitem": column, "relu#1": column.clamp(min=0),
    }  # fmt: skip


class CalledTwice(nn.Module):
    """One module and one function, called several times."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc(x))
        x = self.act(self.fc(x))
        return torch.sin(torch.sin(x))


def called_twice_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    fc = x @ network.fc.weight.T + network.fc.bias
    act = fc.tanh()
    fc1 = act @ network.fc.weight.T + network.fc.bias
    act1 = fc1.tanh()
    sin = act1.sin()
    return {"fc": fc, "act": act, "fc#1": fc1, "act#1": act1, "sin": sin, "sin#1": sin.sin()}


class SharedBlock(nn.Module):
    """One block registered under two names, and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.encode = block
        self.again = block
        self.out = nn.Linear(6, 6, bias=False)
        self.out.weight = cast("nn.Linear", block[0]).weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.again(self.encode(x)))


def shared_block_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    weight, bias = network.out.weight, network.encode[0].bias
    first = (x @ weight.T + bias).clamp(min=0)
    linear = first @ weight.T + bias
    second = linear.clamp(min=0)
    return {
        "encode.1": first, "encode": first, "encode.0#1": linear, "encode#1": second, "out": second @ weight.T,
    }  # fmt: skip


class Branch(nn.Module):
    """Takes one of two ways, by the data."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.warm = nn.Linear(6, 4)
        self.cold = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return F.relu(self.warm(x)) if x.abs().max() < 100 else self.cold(x)


def branch_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    fc = x @ network.fc.weight.T + network.fc.bias
    warm = fc @ network.warm.weight.T + network.warm.bias
    return {"fc": fc, "warm": warm, "relu": warm.clamp(min=0)}


class Functional(nn.Module):
    """No module but for the weights."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.head = nn.Parameter(torch.randn(5, 8))
        self.register_buffer("scale", torch.rand(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel * 2, padding=1)
        y = F.relu(x) + 1
        z = torch.cat([y * self.scale, 1 - x], dim=1)
        z = F.max_pool2d(z, 2) / 2
        return F.linear(z.mean((2, 3)), self.head)


def functional_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    patches = F.unfold(x, 3, padding=1)
    conv = (2 * network.kernel.flatten(1) @ patches).unflatten(2, x.shape[2:])
    relu = conv.clamp(min=0)
    cat = torch.cat([(relu + 1) * network.scale, 1 - conv], 1)
    pool = cat.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))
    mean = (pool / 2).mean((2, 3))
    return {
        "conv2d": conv, "relu": relu, "add": relu + 1, "mul": (relu + 1) * network.scale, "sub": 1 - conv,
        "cat": cat, "max_pool2d": pool, "div": pool / 2, "mean": mean, "linear": mean @ network.head.T,
    }  # fmt: skip


def dropout_flatten() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.Identity(), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 5)
    )


def dropout_flatten_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    conv = F.conv2d(x, network[0].weight, network[0].bias)
    flat = conv.clamp(min=0).flatten(1)
    out = flat @ network[5].weight.T + network[5].bias
    return {"0": conv, "1": conv, "2": conv, "3": conv.clamp(min=0), "4": flat, "5": out}


class SkipMLP(nn.Module):
    """128 layers with a skip from the input of the first half to the second half."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(128))

    def forward(self, x: Tensor) -> Tensor:
        start = x
        for index, layer in enumerate(self.layers):
            x = F.leaky_relu(layer(x), 0.2)
            if index == 63:
                x = x + start
        return x


def skip_mlp_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    values = {}
    hidden = x
    for index, layer in enumerate(network.layers):
        values[f"layers.{index}"] = linear = hidden @ layer.weight.T + layer.bias
        hidden = torch.where(linear > 0, linear, 0.2 * linear)
        values["leaky_relu" + (f"#{index}" if index else "")] = hidden
        if index == 63:
            values["add"] = hidden = hidden + x
    return values


class LSTMClassifier(nn.Module):
    """Tokens through a bidirectional LSTM, and the last state through a head."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embed = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=batch_first, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embed(tokens)
        if not self.batch_first:
            embedded = embedded.transpose(0, 1)
        output, _ = self.lstm(embedded)
        return self.head(output[:, -1] if self.batch_first else output[-1])


def lstm_values(network: Any, tokens: Tensor) -> Mapping[str, Tensor]:
    embedded = network.embed.weight[tokens]
    hidden, cell = zip(*[_lstm_by_hand(network.lstm, embedded, suffix) for suffix in ("", "_reverse")], strict=True)
    output = torch.cat([hidden[0], hidden[1].flip(1)], 2)
    return {
        "embed": embedded,
        "lstm.0": output,
        "lstm.1.0": torch.stack([states[:, -1] for states in hidden], 1),
        "lstm.1.1": torch.stack([states[:, -1] for states in cell], 1),
        "head": output[:, -1] @ network.head.weight.T + network.head.bias,
    }


def lstm_values_time_first(network: Any, tokens: Tensor) -> Mapping[str, Tensor]:
    return lstm_values(network, tokens)


def _lstm_by_hand(lstm: nn.LSTM, inputs: Tensor, suffix: str) -> tuple[Tensor, Tensor]:
    """Hidden and cell states `(n, time, features)`, in the order that this direction reads."""
    weights = {name.removesuffix(suffix): value for name, value in lstm.named_parameters() if name.endswith(suffix)}
    hidden = cell = inputs.new_zeros(len(inputs), lstm.hidden_size)
    hiddens, cells = [], []
    for step in (inputs.flip(1) if suffix else inputs).unbind(1):
        gates = step @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        gates = gates + hidden @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
        i, f, g, o = gates.chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        hiddens.append(hidden)
        cells.append(cell)
    return torch.stack(hiddens, 1), torch.stack(cells, 1)


class GRUTagger(nn.Module):
    """A GRU over a packed sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, last = self.gru(packed)
        return self.head(last[-1])


def gru_values(network: Any, batch: Any) -> Mapping[str, Tensor]:
    x, lengths = batch
    one_at_a_time = [network.gru(sample[None, :length])[1][-1, 0] for sample, length in zip(x, lengths, strict=True)]
    return {"head": torch.stack(one_at_a_time) @ network.head.weight.T + network.head.bias}


class MaskedEncoder(nn.Module):
    """torch's own transformer, whose fused kernel would hide what is inside."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.position = nn.Parameter(torch.randn(1, 5, 8))

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.encoder(x + self.position, src_key_padding_mask=padding).mean(1)


def encoder_values(network: Any, batch: Any) -> Mapping[str, Tensor]:
    x, padding = batch
    values = {"add": (hidden := x + network.position)}
    for index, layer in enumerate(network.encoder.layers):
        name = f"encoder.layers.{index}"
        attention = layer.self_attn
        q, k, v = (hidden @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, 2)
        q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in (q, k, v))
        scores = (q @ k.mT / 2).masked_fill(padding[:, None, None], -torch.inf)
        mixed = (scores.softmax(3) @ v).transpose(1, 2).flatten(2)
        values[f"{name}.self_attn"] = attended = attention.out_proj(mixed)
        values[f"{name}.norm1"] = hidden = layer.norm1(hidden + attended)
        values[f"{name}.linear1"] = wide = layer.linear1(hidden)
        values[f"{name}.norm2"] = values[name] = hidden = layer.norm2(hidden + layer.linear2(wide.clamp(min=0)))
    return values | {"mean": hidden.mean(1)}


class MixesSamples(nn.Module):
    """Sees the other samples of the batch, holds tables, and compares every sample with every other."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.table = nn.Embedding(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        centred = x - x.mean(0)
        similar = x @ x.T
        rows = self.table(torch.arange(4)).sum(0).expand(len(x), -1)
        x = torch.tanh(x + rows)
        return x + centred * similar.mean()


def mixes_samples_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    fc = x @ network.fc.weight.T + network.fc.bias
    added = fc + network.table.weight.sum(0)
    return {"fc": fc, "add": added, "tanh": added.tanh()}


class Nested(nn.Module):
    """Takes keyword arguments, returns nested values, and keeps modules in a list and a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"left": nn.Linear(4, 6), "right": nn.ModuleList([nn.Linear(3, 6)])})
        self.both = Pair()

    def forward(self, *, a: Tensor, b: Tensor) -> dict[str, Any]:
        pair = self.both(self.parts["left"](a), cast("nn.ModuleList", self.parts["right"])[0](b))
        return {"total": pair["total"], "more": [pair["more"][0] * 3]}


class Pair(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> dict[str, Any]:
        return {"total": a + b, "more": (a - b, None)}


def nested_values(network: Any, batch: Any) -> Mapping[str, Tensor]:
    left, right = network.parts["left"](batch["a"]), network.parts["right"][0](batch["b"])
    return {
        "input.a": batch["a"], "input.b": batch["b"], "parts.left": left, "parts.right.0": right,
        "both.total": left + right, "both.more.0": left - right, "mul": 3 * (left - right),
    }  # fmt: skip


class ForwardDirectly(nn.Module):
    """Calls a module's forward itself, past all hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.hidden.forward(x)
        return self.out.forward(x).sigmoid()


def forward_directly_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    linear = x @ network.hidden[0].weight.T + network.hidden[0].bias
    out = linear.clamp(min=0) @ network.out.weight.T + network.out.bias
    return {"hidden.0": linear, "hidden.1": linear.clamp(min=0), "linear": out, "sigmoid": out.sigmoid()}


class Wrapper(nn.Module):
    """Does nothing but call the network inside, as a training module does."""

    def __init__(self) -> None:
        super().__init__()
        self.network = CalledTwice()
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def wrapper_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    return called_twice_values(network.network, x)


class LazyNet(nn.Sequential):
    """Learns its sizes from the first batch."""

    def __init__(self) -> None:
        super().__init__(
            nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(5)
        )


def lazy_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    conv = F.conv2d(x, network[0].weight, network[0].bias)
    norm, relu = conv / math.sqrt(1 + network[1].eps), (conv / math.sqrt(1 + network[1].eps)).clamp(min=0)
    return {"0": conv, "1": norm, "2": relu, "4": relu.flatten(1) @ network[4].weight.T + network[4].bias}


@dataclass
class Output:
    """What `TwoHeads` gives."""

    main: Tensor
    aux: Tensor | None
    hidden: tuple[Tensor, ...]


class TwoHeads(nn.Module):
    """A head beside the way that stays in eval mode, one that only trains, and a dataclass as output."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.main = nn.Linear(6, 8), nn.Linear(8, 3)
        self.aux, self.only_training = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Output:
        hidden = self.body(x).tanh()
        if self.training:
            return Output(self.only_training(hidden), None, ())
        return Output(self.main(hidden), self.aux(hidden), (hidden * 2,))


def two_heads_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    body = x @ network.body.weight.T + network.body.bias
    main, aux = (body.tanh() @ head.weight.T + head.bias for head in (network.main, network.aux))
    return {"body": body, "tanh": body.tanh(), "main": main, "aux": aux, "mul": 2 * body.tanh()}


def compiled() -> nn.Module:
    return torch.compile(CalledTwice(), backend="eager")  # type: ignore[return-value]


def compiled_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    return called_twice_values(network._orig_mod, x)


def distributed() -> nn.Module:
    """As in one process of many; its group is left behind, as a training run would leave it."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    return nn.parallel.DistributedDataParallel(CalledTwice())


def distributed_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    return called_twice_values(network.module, x)


# Networks that others wrote


def resnet_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    """The stem and the first block of resnet18, by hand and out of place."""

    def bn(module: nn.BatchNorm2d, y: Tensor) -> Tensor:
        mean, var, weight, bias = (
            cast(Tensor, stat)[:, None, None]
            for stat in (module.running_mean, module.running_var, module.weight, module.bias)
        )
        return (y - mean) / torch.sqrt(var + module.eps) * weight + bias

    block = network.layer1[0]
    conv1 = F.conv2d(x, network.conv1.weight, stride=2, padding=3)
    bn1 = bn(network.bn1, conv1)
    pool = F.max_pool2d(bn1.clamp(min=0), 3, 2, 1)
    inner = bn(block.bn1, F.conv2d(pool, block.conv1.weight, padding=1))
    bn2 = bn(block.bn2, F.conv2d(inner.clamp(min=0), block.conv2.weight, padding=1))
    output = (bn2 + pool).clamp(min=0)
    rest = copied_by_hooks(network, x, ("layer1", "layer3.0.downsample.1", "layer4.1.conv2", "avgpool", "fc"))
    return {
        "input": x, "conv1": conv1, "bn1": bn1, "relu": bn1.clamp(min=0), "maxpool": pool, "layer1.0.bn1": inner,
        "layer1.0.relu": inner.clamp(min=0), "layer1.0.bn2": bn2, "layer1.0.add": bn2 + pool,
        "layer1.0.relu#1": output, "layer1.0": output, "flatten": rest["avgpool"].flatten(1),
    } | {name: value for name, value in rest.items() if name != "layer4.1.conv2"}  # fmt: skip


def resnet50_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    values = copied_by_hooks(network, x, ("conv1", "layer1.0.conv3", "layer1.0.bn3", "layer1.0.downsample", "fc"))
    values["layer1.0.add"] = values["layer1.0.bn3"] + values["layer1.0.downsample"]
    return values


def inception_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    paths = ("Mixed_5b.branch1x1", "Mixed_5b.branch5x5_2", "Mixed_5b.branch3x3dbl_3", "Mixed_5b.branch_pool")
    values = copied_by_hooks(network, x, (*paths, "maxpool2", "Mixed_6e", "Mixed_7c", "fc"))
    values["Mixed_5b"] = torch.cat([values[path] for path in paths], 1)
    values["Mixed_5b.avg_pool2d"] = F.avg_pool2d(values["maxpool2"], 3, 1, 1)
    return values


def vit_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    block = "encoder.layers.encoder_layer_1"
    values = copied_by_hooks(network, x, ("conv_proj", f"{block}.mlp", block, "encoder.ln", "heads"))
    patches = values["conv_proj"].flatten(2).mT
    values["cat"] = torch.cat([network.class_token.expand(len(x), -1, -1), patches], 1)
    values["encoder.add"] = values["cat"] + network.encoder.pos_embedding
    values[f"{block}.add"] = values[block] - values[f"{block}.mlp"]
    values["getitem"] = values["encoder.ln"][:, 0]
    return values


def densenet_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    first = [f"features.denseblock1.denselayer{index}" for index in range(1, 7)]
    values = copied_by_hooks(network, x, ("features.pool0", *first, "features.norm5", "classifier"))
    values["features.denseblock1"] = torch.cat([values["features.pool0"], *(values[name] for name in first)], 1)
    values["relu"] = values["features.norm5"].clamp(min=0)
    return values


def swin_values(network: Any, x: Tensor) -> Mapping[str, Tensor]:
    values = copied_by_hooks(network, x, ("features.0.0", "features.1.1.norm1", "features.1.1", "features.2", "head"))
    grid = values["features.1.1.norm1"]  # 16 x 16 is padded to 21 x 21: 3 x 3 windows of 7 x 7, each shifted by 3
    values["features.1.1.attn.pad"] = padded = F.pad(grid, (0, 0, 0, 5, 0, 5))
    shifted = torch.stack([sample.roll((-3, -3), (0, 1)) for sample in padded])
    windows = [shifted[:, i : i + 7, j : j + 7].flatten(1, 2) for i in (0, 7, 14) for j in (0, 7, 14)]
    values["features.1.1.attn.linear"] = network.features[1][1].attn.qkv(torch.stack(windows, 1))
    return values


def tokens(n: int) -> Mapping[str, Tensor]:
    ids = torch.randint(2, 50, (n, 7))
    mask = torch.ones(n, 7, dtype=torch.long)
    mask[0, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _from_config(class_name: str, config_name: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        config = getattr(transformers, config_name)(
            vocab_size=50, pad_token_id=0, bos_token_id=1, eos_token_id=1, **settings
        )
        return getattr(transformers, class_name)(config)

    return build


def hidden_states(names: Sequence[str]) -> Callable[[nn.Module, Any], Mapping[str, Tensor]]:
    """Hugging Face's own hidden states: the embeddings, then every block; the last one is normalised."""

    def values(network: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        states = network(**batch, output_hidden_states=True).hidden_states
        return dict(zip(names, states, strict=True))

    return values


_SMALL = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
_DECODER = _SMALL | {"num_key_value_heads": 2, "head_dim": 8}

CASES: tuple[Case, ...] = (
    Case("in_place", InPlace, vectors(6), in_place_values),
    Case("called_twice", CalledTwice, vectors(6), called_twice_values),
    Case("shared_block", SharedBlock, vectors(6), shared_block_values, absent=("again",)),
    Case("branch", Branch, vectors(6), branch_values, absent=("cold",)),
    Case("functional", Functional, images(8), functional_values),
    Case("dropout_flatten", dropout_flatten, images(8), dropout_flatten_values),
    Case("skip128", SkipMLP, vectors(16), skip_mlp_values),
    Case("lstm", lambda: LSTMClassifier(True), lambda n: torch.randint(20, (n, 7)), lstm_values, absent=("input",)),
    Case(
        "lstm_time_first",
        lambda: LSTMClassifier(False),
        lambda n: torch.randint(20, (n, 7)),
        lstm_values_time_first,
        absent=("input",),
    ),
    Case("gru_packed", GRUTagger, lambda n: (torch.randn(n, 6, 4), torch.arange(n) % 3 + 4), gru_values, mixes=True),
    Case(
        "transformer_encoder",
        MaskedEncoder,
        lambda n: (torch.randn(n, 5, 8), torch.arange(5) >= 5 - torch.arange(n)[:, None] % 3),
        encoder_values,
    ),
    Case(
        "mixes_samples",
        MixesSamples,
        vectors(6),
        mixes_samples_values,
        absent=("sub", "matmul", "mul", "table", "expand", "add#1", "sum"),
        mixes=True,
    ),
    Case("nested", Nested, lambda n: {"a": torch.randn(n, 4), "b": torch.randn(n, 3)}, nested_values),
    Case("forward_directly", ForwardDirectly, vectors(6), forward_directly_values),
    Case("wrapper", Wrapper, vectors(6), wrapper_values),
    Case("lazy", LazyNet, images(8), lazy_values),
    Case("two_heads", TwoHeads, vectors(6), two_heads_values, absent=("only_training",)),
    Case("compiled", compiled, vectors(6), compiled_values),
    Case("distributed", distributed, vectors(6), distributed_values),
    Case("resnet18", torchvision.models.resnet18, images(64), resnet_values),
    Case("resnet50", torchvision.models.resnet50, images(64), resnet50_values),
    Case(
        "inception_v3",
        lambda: torchvision.models.inception_v3(init_weights=False),
        images(80),
        inception_values,
        absent=("AuxLogits", "AuxLogits.fc"),
    ),
    Case("vit_b_16", lambda: torchvision.models.vit_b_16(image_size=32), images(32), vit_values),
    Case(
        "convnext_tiny",
        torchvision.models.convnext_tiny,
        images(64),
        hooked("features.0", "features.1.0.block.3", "features.1.0.block", "features.5.3", "features.6", "classifier"),
    ),
    Case(
        "mobilenet_v3_small",
        torchvision.models.mobilenet_v3_small,
        images(64),
        hooked("features.0.1", "features.1.block.1.scale_activation", "features.3.block.2", "features.12", "avgpool"),
    ),
    Case("densenet121", torchvision.models.densenet121, images(64), densenet_values),
    Case("swin_t", torchvision.models.swin_t, images(64), swin_values),
    Case(
        "gpt2",
        _from_config("GPT2LMHeadModel", "GPT2Config", n_layer=3, n_head=2, n_embd=32, n_positions=16),
        tokens,
        hidden_states(["transformer.drop", "transformer.h.0", "transformer.h.1", "transformer.ln_f"]),
    ),
    *(
        Case(
            name.lower(),
            _from_config(f"{name}ForCausalLM", f"{name}Config", **_DECODER),
            tokens,
            hidden_states(["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm"]),
        )
        for name in ("Llama", "Qwen2", "Gemma")
    ),
    Case(
        "bert",
        _from_config("BertForSequenceClassification", "BertConfig", **_SMALL),
        tokens,
        hidden_states(["bert.embeddings", *(f"bert.encoder.layer.{index}" for index in range(3))]),
    ),
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small networks are faster, and do not slow down with what else a machine is doing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


_HEAVY = ("resnet50", "inception_v3", "vit_b_16", "convnext_tiny", "densenet121")
each_case = pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[pytest.mark.slow] * (case.name in _HEAVY)) for case in CASES]
)
