"""A fitted head predicts what its record says it does: on networks, on features, from memory and from files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import layerprobe
from layerprobe.api.head import ProbeHead
from layerprobe.probing.features.reducers import AbstractReducer, Flatten, Reduction
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.ridge import Ridge

SIZES = {"train": 60, "val": 30, "test": 40}
WORDS = np.array(["ant", "bee", "cat", "dog"])


def made(width: int = 5) -> dict[str, tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    data = {}
    for split, n in SIZES.items():
        x = torch.randn(n, width, generator=random)
        data[split] = (x, (x[:, 0] + 0.7 * torch.randn(n, generator=random) > 0).long() + 2 * (x[:, 1] > 0.5))
    return data


def seeded(build: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build()


def network(width: int = 5) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(width, 4), nn.Tanh(), nn.Linear(4, 3)))


def probed(data: Any, net: nn.Module | None = None, **options: Any) -> layerprobe.ProbeResults:
    return layerprobe.probe(net or network(), data, l2=[1e-2, 1e-1], progress=False, **options)


def reopened(results: layerprobe.ProbeResults, tmp_path: Path) -> layerprobe.ProbeResults:
    results.save(tmp_path / "saved")
    return layerprobe.load(tmp_path / "saved")


def errors(results: layerprobe.ProbeResults, net: nn.Module, inputs: Any, targets: Any, **options: Any) -> list[float]:
    return [float(np.mean(np.asarray(h.predict(net, inputs, **options) != targets))) for h in results.heads.values()]


@pytest.mark.parametrize(("solver", "standardise"), [("logistic", True), ("ridge", False)])
def test_it_errs_as_its_record_says(solver: str, standardise: bool, tmp_path: Path) -> None:
    net, data = network(), made()
    x, y = data["test"]
    found = probed(data, net, solver=solver, standardise=standardise)
    for results in (found, reopened(found, tmp_path)):
        assert errors(results, net, x, y) == found["test_error"].tolist()
    for head in results.heads.values():
        features = head.features(net, x)
        right = head.predict(features) == y
        assert isinstance(right, Tensor)
        assert head.wrong.tolist() == (~right).nonzero()[:, 0].tolist()
        assert found.correct[head.record.layer].tolist() == right.tolist()
        scores = head.decision_function(features.numpy())
        assert head.classes[scores.argmax(1)].tolist() == head.predict(features).tolist()
        own = features.double().numpy() @ head.weight.T + head.bias
        np.testing.assert_allclose(own, scores, atol=1e-4)
    loader = DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True)
    assert torch.equal(head.predict(net, loader), head.predict(net, x)), "read in the data set's order"
    table = list(zip(x, y.tolist(), strict=True))

    class Table:
        """Gives samples by their numbers, as Hugging Face's data sets do."""

        __len__, __getitem__ = table.__len__, table.__getitem__

        def __getitems__(self, rows: list[int]) -> list[Any]:
            return [table[row] for row in rows]

    assert torch.equal(head.predict(net, Table()), head.predict(net, x))
    other = torch.randn(40, 5, generator=torch.Generator().manual_seed(9))
    assert errors(found, net, other, y) != found["test_error"].tolist(), "the negative control"


def test_it_runs_the_network_as_the_probe_did(tmp_path: Path) -> None:
    """In the number format of a mixed precision, and with what the network draws at random."""

    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0.5 * torch.randn_like(x)

    net, data = nn.Sequential(network(), Noise()), made()
    protocol = ProbeProtocol(["0", "1"], solvers=(Ridge(),), l2=(1e-2,), seeds=(3,))
    layers = list(probe_checkpoint(net, data, protocol, context=partial(torch.autocast, "cpu", torch.bfloat16)))
    found = layerprobe.ProbeResults(layers)
    x, y = data["test"]
    loader = DataLoader(TensorDataset(x, y), batch_size=256)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = net[0](x).float()
    for results in (found, reopened(found, tmp_path)):
        assert torch.equal(results.heads["0"].features(net, x), rounded)
        for given in (x, loader):
            head = results.heads["1"]
            assert (head.predict(net, given) == y).tolist() == found.correct["1"].tolist()
    exact = dataclasses.replace(layers[-1], recipe=dataclasses.replace(layers[-1].recipe, autocast=None))
    assert not torch.equal(ProbeHead(exact).features(net, given), head.features(net, given)), "the negative control"


def test_words_arrays_and_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.body(torch.cat([a, b], 1))

    net = Two()
    data = {s: ({"a": x[:, :2].numpy(), "b": x[:, 2:].numpy()}, WORDS[y.numpy()]) for s, (x, y) in made().items()}
    results = probed(data, net)
    x, y = data["test"]
    assert errors(results, net, x, y) == results["test_error"].tolist()
    head = results.heads["body.2"]
    assert head.classes.tolist() == WORDS.tolist()
    assert isinstance(head.decision_function(net, x), np.ndarray)
    proba = head.predict_proba(net, x)
    np.testing.assert_allclose(proba.sum(1), 1)
    assert (head.classes[proba.argmax(1)] == head.predict(net, x)).all()


def test_a_class_that_train_does_not_have_keeps_the_others_names() -> None:
    data = made()
    data["train"] = tuple(part[data["train"][1] != 1] for part in data["train"])  # type: ignore[assignment]
    words = {split: (x, WORDS[y.numpy()]) for split, (x, y) in data.items()}
    net = network()
    for given in (data, words):
        results = probed(given, net)
        assert errors(results, net, *given["test"]) == results["test_error"].tolist()


def test_several_labels() -> None:
    net = network()
    data = {s: (x, torch.stack([y > 1, y == 0, x[:, 4] > 0], 1).long()) for s, (x, y) in made().items()}
    for solver in ("logistic", "ridge"):
        results = probed(data, net, task="multi_label", solver=solver, layers="0")
        (error,) = errors(results, net, *data["test"])
        assert round(error * 120) == pytest.approx(120 * results["test_error"].item()), "of 40 samples, 3 labels each"
        head = results.heads["0"]
        wrong = (head.predict(net, data["test"][0]) != data["test"][1]).any(1)
        assert head.wrong.tolist() == wrong.nonzero()[:, 0].tolist()
        assert head.direction.shape == (3, 4)
    with pytest.raises(ValueError, match=r"fitted by ridge, which has no probabilities.*solver='logistic'"):
        head.predict_proba(net, data["test"][0])


@pytest.mark.parametrize("columns", [1, 2])
def test_numbers(columns: int, tmp_path: Path) -> None:
    net = network()
    both = {s: (x, torch.stack([30 + 4 * x[:, 0], x[:, 1].square()], 1)) for s, (x, _) in made().items()}
    data = both if columns == 2 else {s: (x, y[:, 0]) for s, (x, y) in both.items()}
    results = reopened(probed(data, net, task="regression"), tmp_path)
    x, y = data["test"]
    for head in results.heads.values():
        features = head.features(net, x)
        predicted = head.predict(features)
        assert predicted.shape == y.shape
        unexplained = (predicted - y).square().sum(0) / (y - y.mean(0)).square().sum(0)
        assert float(unexplained.mean()) == pytest.approx(head.record.test_error, rel=1e-5)
        own = features.double().numpy() @ head.weight.T + head.bias
        np.testing.assert_allclose(own, head.decision_function(features).numpy(), atol=1e-4)
        with pytest.raises(ValueError, match="not right or wrong"):
            _ = head.wrong
    assert results.correct.empty


class Sentences(nn.Module):
    """A small transformer whose samples are as long as their mask says."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        padding = None if attention_mask is None else attention_mask == 0
        return self.block(self.embed(tokens), src_key_padding_mask=padding)


def sentences() -> dict[str, tuple[dict[str, Tensor], Tensor]]:
    random = torch.Generator().manual_seed(3)
    data = {}
    for split, n in SIZES.items():
        tokens = torch.randint(1, 11, (n, 7), generator=random)
        length = torch.randint(2, 8, (n, 1), generator=random)
        mask = (torch.arange(7) < length).long()
        target = (tokens * mask).sum(1) > 20
        data[split] = ({"tokens": tokens * mask, "attention_mask": mask}, target.long())
    return data


REDUCERS = ["mean_token", layerprobe.TokenIndex(-1)]


@pytest.mark.parametrize("reducer", REDUCERS, ids=str)
def test_tokens_with_the_inputs_own_mask(reducer: Any, tmp_path: Path) -> None:
    net, data = seeded(Sentences), sentences()
    results = reopened(probed(data, net, reducer=reducer, layers=["block", "block.self_attn"]), tmp_path)
    inputs, y = data["test"]
    assert errors(results, net, inputs, y) == results["test_error"].tolist()
    shorter = {name: part[:9, :6] for name, part in inputs.items()}
    assert results.heads["block"].predict(net, shorter).shape == (9,), "sequences of another length"
    activations = layerprobe.activations(net, inputs, "block", granularity="modules")["block"]
    head = results.heads["block"]
    assert torch.equal(head.predict(activations, mask=inputs["attention_mask"]), head.predict(net, inputs))
    with pytest.raises(ValueError, match=r"do not say which tokens are padding. Give `mask`"):
        head.predict(activations)


def test_tokens_with_a_mask_of_ones_own(tmp_path: Path) -> None:
    net = seeded(Sentences)
    data = {s: [{"tokens": x["tokens"], "kept": x["attention_mask"], "y": y}] for s, (x, y) in sentences().items()}
    options = {"inputs": ["tokens"], "targets": "y", "mask": "kept", "layers": "block"}
    results = reopened(probed(data, net, reducer="last_token", **options), tmp_path)
    (batch,) = data["test"]
    given = (batch["tokens"],)
    assert errors(results, net, given, batch["y"], mask=batch["kept"]) == results["test_error"].tolist()
    head = results.heads["block"]
    assert (head.predict(net, given, mask=batch["kept"].numpy()) == head.predict(net, given, mask=batch["kept"])).all()
    with pytest.raises(ValueError, match=r"probed with masks of its own \(`mask`\).*Give those"):
        head.predict(net, given)
    flat = probed(data, net, reducer="flatten", **options).heads["block"]
    with pytest.raises(ValueError, match="are not made of tokens: leave `mask` out"):
        flat.predict(net, given, mask=batch["kept"])


REDUCTIONS: list[tuple[Any, dict[str, Any]]] = [
    (layerprobe.AveragePool(max_features=7), {}),
    (layerprobe.ChannelMean(channel_axis={"1": -1}), {}),
    (
        [layerprobe.RandomSubset(n_features=9), layerprobe.RandomSubset(n_features=11)],
        {"seed": 5, "granularity": "ops"},
    ),
]


@pytest.mark.parametrize(("reducer", "options"), REDUCTIONS, ids=[str(reducer) for reducer, _ in REDUCTIONS])
def test_every_reducer_is_made_anew(reducer: Any, options: Mapping[str, Any], tmp_path: Path) -> None:
    net = seeded(lambda: nn.Sequential(nn.Unflatten(1, (1, 6, 6)), nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten()))
    data = made(36)
    results = reopened(probed(data, net, reducer=reducer, **options), tmp_path)
    x, y = data["test"]
    activations = layerprobe.activations(net, x, granularity=options.get("granularity", "modules"))
    for layer, head in results.heads.items():
        wrong = head.predict(net, x) != y
        assert float(np.mean(wrong.numpy())) == head.record.test_error
        assert torch.equal(head.predict(activations[layer]) != y, wrong)


def test_features_that_are_constant_on_train_say_nothing(tmp_path: Path) -> None:
    data = made()
    for split in ("train", "val"):
        data[split][0][:, 3] = 0.7
    net = nn.Identity()
    results = reopened(probed(data, net), tmp_path)
    assert errors(results, net, *data["test"]) == results["test_error"].tolist()
    assert not results.heads["input"].weight[:, 3].any()


def test_data_without_splits_keep_the_numbers_of_their_samples(tmp_path: Path) -> None:
    x, y = (torch.cat([pair[i] for pair in made().values()]) for i in (0, 1))
    net = network()
    found = probed((x, y), net, layers="0")
    for results in (found, reopened(found, tmp_path)):
        rows = results.correct.index
        assert len(rows) == results["n_test"].iloc[0] and not (rows == np.arange(len(rows))).all()
        head = results.heads["0"]
        predicted = head.predict(net, x)
        assert ((predicted != y).numpy()[rows]).mean() == results["test_error"].item()
        assert set(head.wrong) == set(rows[(predicted != y).numpy()[rows]])


def test_a_direction_leads_from_the_first_class_to_the_second() -> None:
    data = {split: (x, (x[:, 0] > 0).long()) for split, (x, _) in made().items()}
    head = probed(data, nn.Identity()).heads["input"]
    x = data["test"][0]
    before, after = (head.predict_proba(x + step * torch.tensor(head.direction).float())[:, 1] for step in (0, 0.1))
    assert (after > before).all()
    assert np.abs(head.direction).argmax() == 0


def test_another_network_is_told_from_the_one_probed() -> None:
    results = probed(made())
    x = made()["test"][0]
    head = results.heads["1"]
    short = nn.Sequential(nn.Linear(5, 4))
    with pytest.raises(
        ValueError, match=r"no layer '1' \(granularity 'modules'\). Choose one of: 0, input.*probe.layers"
    ):
        head.predict(short, x)
    wider = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
    with pytest.raises(ValueError, match=r"'1' is a Tanh of 6 in this network, and its head was fitted to a Tanh of 4"):
        head.predict(wider, x)
    other = nn.Sequential(nn.Linear(5, 4), nn.ReLU())
    with pytest.raises(ValueError, match=r"'1' is a ReLU of 4 in this network, and its head was fitted to a Tanh of 4"):
        head.predict(other, x)
    with pytest.raises(ValueError, match=r"takes features \(samples, 4\).*found \(40, 5\)"):
        head.predict(x)
    with pytest.raises(ValueError, match="Give the network's inputs, too"):
        head.predict(network())
    with pytest.raises(ValueError, match="Found a Tensor in place of the network"):
        head.predict(x, network())
    with pytest.raises(KeyError, match=r"No layer '11' was probed. Choose one of: 0, 1, 2, input"):
        results.heads["11"]


def test_an_alias_is_as_good_a_name() -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(5, 4), nn.Dropout(), nn.Linear(4, 3)))
    results = probed(made(), net)
    assert results["aliases"].tolist()[1] == "1"
    assert results.heads["1"].record.layer == "0"
    assert list(results.heads) == ["input", "0", "2"]


def test_a_file_without_a_recipe_predicts_from_features_alone(tmp_path: Path) -> None:
    net, data = network(), made()
    results = reopened(probed(data, net), tmp_path)
    for file in (tmp_path / "saved").glob("heads/*/*"):
        with safe_open(file, "numpy") as opened:
            about = {name: text for name, text in opened.metadata().items() if name != "recipe"}
        save_file(load_file(file), file, about)
    old = layerprobe.load(tmp_path / "saved").heads["0"]
    with pytest.raises(ValueError, match=r"does not say how its features are made: an older version.*Probe its"):
        old.predict(net, data["test"][0])
    features = results.heads["0"].features(net, data["test"][0])
    assert torch.equal(old.predict(features), results.heads["0"].predict(features))


@dataclasses.dataclass(frozen=True)
class Scaled(AbstractReducer):
    """A user's own reducer."""

    factor: Any
    name: ClassVar[str] = "scaled_for_heads"

    def fit(self, shape: Any, seed: int, sequence: Any = (), channel_axis: int | None = None) -> Reduction:
        found = Flatten().fit(shape, seed)
        return Reduction(
            found.n_features, f"scaled {found.description}", lambda x: float(self.factor) * found.function(x)
        )


def test_a_users_own_reducer(tmp_path: Path) -> None:
    net, data = network(), made()
    results = reopened(probed(data, net, reducer=Scaled(3.0)), tmp_path)
    assert errors(results, net, *data["test"]) == results["test_error"].tolist()
    odd = probed(data, net, reducer=Scaled(torch.tensor(2.0))).heads["0"]
    with pytest.raises(ValueError, match=r"arguments of the reducer 'scaled_for_heads' are not plain values"):
        odd.predict(net, data["test"][0])
    (file,) = (tmp_path / "saved").glob("heads/*/001_0.*")
    with safe_open(file, "numpy") as opened:
        about = opened.metadata()
    recipe = json.loads(about["recipe"])
    assert recipe["arguments"] == {"factor": 3.0}
    record = dataclasses.replace(results.layers[1].record, reducer="scaled_for_head")
    unknown = layerprobe.ProbeHead(dataclasses.replace(results.layers[1], record=record))
    with pytest.raises(ValueError, match=r"'scaled_for_head', which is not known here. Import.*scaled_for_heads"):
        unknown.predict(net, data["test"][0])


def test_a_network_is_left_as_it_was() -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3)))
    results = probed(made(), net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state, training = torch.get_rng_state(), net.training
    results.heads["1"].predict(net, made()["test"][0])
    assert net.training == training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
