"""References that predict: their predictions are those whose errors were recorded, from memory and from files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

import layerprobe
from helpers.small_memory import ROOM, probed_with
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.results.merge import merge_results

ANALYSES = (
    layerprobe.NearestMean(),
    layerprobe.NearestNeighbours(metric="cosine"),
    layerprobe.MLP(steps=300, seeds=2),
    layerprobe.Attention(steps=300, seeds=2, positions=9),
)


def _network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 6), nn.ReLU())


def _data(kind: str = "classes") -> dict[str, Any]:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(500, 1, 8, 8, generator=draws)
    seen = x.flatten(1) @ torch.randn(64, 3, generator=draws)
    y: Any = {"classes": seen.square().argmax(1), "labels": (seen > 3).long(), "numbers": seen.double() * 7 + 100}[kind]
    if kind == "classes":
        y = np.array(["fox", "owl", "elk"])[y.numpy()]
    parts = {"train": slice(0, 260), "val": slice(260, 340), "test": slice(340, 420), "far": slice(420, 500)}
    found = {name: (x[rows], y[rows]) for name, rows in parts.items()}
    return {"train": found["train"], "val": found["val"], "test": {"near": found["test"], "far": found["far"]}}


def _both(results: layerprobe.ProbeResults, tmp_path: Path) -> tuple[layerprobe.ProbeResults, ...]:
    results.save(tmp_path / "saved")
    return results, layerprobe.load(tmp_path / "saved")


def _recorded(results: layerprobe.ProbeResults, layer: str, name: str, test_set: str) -> float:
    rows = results.metrics.query("layer == @layer and head == @name and test_set == @test_set and metric == 'error'")
    return float(rows["value"].item())


def _error(predicted: Any, targets: Any, kind: str) -> float:
    predicted, targets = np.asarray(predicted), np.asarray(targets)
    if kind == "numbers":
        return float(np.mean(np.mean((predicted - targets) ** 2, 0) / np.var(targets, 0)))
    return float(np.mean(predicted != targets))


@pytest.mark.parametrize("kind", ["classes", "labels", "numbers"])
def test_they_err_as_was_recorded(kind: str, tmp_path: Path) -> None:
    net, data = _network(), _data(kind)
    task = {"labels": "multi_label", "numbers": "regression"}.get(kind)
    analyses = ANALYSES if kind == "classes" else ANALYSES[1:]
    results = layerprobe.probe(net, data, analyses=analyses, keep=tmp_path / "kept", task=task, progress=False)
    for here in _both(results, tmp_path):
        for layer, head in here.heads.items():
            of_positions = {"attention"} if layer in ("input", "0", "1") else set()
            assert set(head.references) == {one.name for one in analyses} - {"attention"} | of_positions
            for name, reference in head.references.items():
                for test_set, (x, y) in data["test"].items():
                    error, recorded = _error(reference.predict(net, x), y, kind), _recorded(here, layer, name, test_set)
                    of_means = pytest.approx(recorded, abs=1e-9)  # summed in another order
                    assert error == (recorded if kind == "classes" else of_means), (layer, name)


@pytest.mark.parametrize("standardise", [True, False])
def test_of_a_head_fitted_once_more_and_of_features_that_do_not_vary(standardise: bool, tmp_path: Path) -> None:
    net, words = _network(), _data()
    known = {name: i for i, name in enumerate(("elk", "fox", "owl"))}

    def numbered(pair: Any) -> tuple[Tensor, Tensor]:
        return pair[0], torch.tensor([known[word] for word in pair[1]])

    data = {split: numbered(words[split]) for split in ("train", "val")}
    for x, _ in data.values():
        x[:, :, 0, :3] = 7.0
    data["test"] = numbered(words["test"]["near"])  # where the same features do vary
    protocol = ProbeProtocol(analyses=ANALYSES, refit=True, standardise=standardise, layers=["input", "0"])
    resources = Resources(keep=tmp_path / "kept")
    results = layerprobe.ProbeResults(probe_checkpoint(net, data, protocol, resources=resources))
    x, y = data["test"]
    for layer, head in results.heads.items():
        assert head.record.refit
        for name, reference in head.references.items():
            assert _error(reference.predict(net, x), y, "classes") == _recorded(results, layer, name, "test")


def test_features_and_activations_are_as_good_as_the_network() -> None:
    net, data = _network(), _data()
    results = layerprobe.probe(net, data, layers="0", analyses=[ANALYSES[0], *ANALYSES[2:]], progress=False)
    x, _ = data["test"]["near"]
    for reference in results.heads["0"].references.values():
        scores = reference.decision_function(net, x)
        assert scores.shape == (len(x), 3)
        assert reference.classes[scores.argmax(1)].tolist() == reference.predict(net, x).tolist()
        for given in (reference.features(net, x), net[0](x)):
            assert torch.equal(reference.decision_function(given), scores)
        with pytest.raises(ValueError, match="takes features"):
            reference.predict(x[:, :, 0])


def test_a_perceptron_is_the_network_that_its_file_holds(tmp_path: Path) -> None:
    net, data = _network(), _data()
    results = layerprobe.probe(net, data, layers="3", analyses=ANALYSES[2], progress=False)
    results.save(tmp_path)
    parts = load_file(next((tmp_path / "references").glob("*/*_3.safetensors")))
    first, bias, second, other = (parts[f"mlp/{i}"][0].astype(np.float64) for i in range(4))
    x = net[:4](data["test"]["near"][0]).detach().double().numpy()
    x = (x - parts["mlp/mean"]) / parts["mlp/scale"]
    scores = np.maximum(x @ first + bias, 0) @ second + other
    found = layerprobe.load(tmp_path).heads["3"].references["mlp"]
    np.testing.assert_allclose(found.decision_function(net, data["test"]["near"][0]), scores, atol=1e-4)


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block = nn.Embedding(30, 6), nn.Linear(6, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.tanh(self.block(self.embed(input_ids)))


@pytest.mark.parametrize("reducer", ["mean_token", "flatten"])
def test_tokens_are_weighed_without_padding(reducer: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, ids = _Encoder(), torch.randint(0, 30, (300, 7))
    mask = (torch.arange(7) < torch.randint(2, 8, (300, 1))).long()
    y = ((ids == 3) & (mask == 1)).any(1).long()

    def part(a: int, b: int) -> tuple[dict[str, Tensor], Tensor]:
        return {"input_ids": ids[a:b], "attention_mask": mask[a:b]}, y[a:b]

    data = {"train": part(0, 150), "val": part(150, 220), "test": part(220, 300)}
    results = layerprobe.probe(net, data, reducer=reducer, layers="block", analyses=ANALYSES[3], progress=False)
    inputs, truth = data["test"]
    for here in _both(results, tmp_path):
        attention = here.heads["block"].references["attention"]
        assert _error(attention.predict(net, inputs), truth, "classes") == _recorded(here, "block", "attention", "test")
        longer = {name: torch.cat([rows, rows.new_zeros(80, 4)], 1) for name, rows in inputs.items()}
        if reducer == "mean_token":
            assert attention.predict(net, longer).tolist() == attention.predict(net, inputs).tolist()
        with pytest.raises(ValueError, match="cannot be read"):
            attention.predict(net, {**inputs, "attention_mask": torch.zeros_like(mask[:80])})


def test_neighbours_say_what_to_do_without_training_features(tmp_path: Path) -> None:
    net, data = _network(), _data()
    x, _ = data["test"]["near"]
    without = layerprobe.probe(net, data, layers="3", analyses="knn", progress=False)
    with pytest.raises(ValueError, match=r"were not kept\. Probe with keep=DIR \(probe\.keep=true"):
        without.heads["3"].references["knn"].predict(net, x)
    kept = tmp_path / "kept"
    knn = (
        layerprobe.probe(net, data, layers="3", analyses="knn", keep=kept, progress=False).heads["3"].references["knn"]
    )
    knn.predict(net, x)
    (kept / "features.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match="kept by another version"):
        knn.predict(net, x)
    shutil.rmtree(kept)
    with pytest.raises(ValueError, match=r"not in .* any more.*keep_train=True.*analysis\.knn\.keep_train=true"):
        knn.predict(net, x)


@pytest.mark.parametrize("features", [ROOM, 1000])
def test_neighbours_may_keep_their_training_features_with_the_results(tmp_path: Path, features: int) -> None:
    net, words = _network(), _data()
    given = {**words, **words["test"]}
    del given["test"]
    data = {split: (x, torch.from_numpy(np.unique(y, return_inverse=True)[1])) for split, (x, y) in given.items()}
    knn = layerprobe.NearestNeighbours(keep_train=True)
    results = probed_with(features, net, data, layers=["3"], analyses=(knn,))
    for here in _both(results, tmp_path):
        for name in ("near", "far"):
            x, y = data[name]
            predicted = here.heads["3"].references["knn"].predict(net, x)
            assert _error(predicted, y, "classes") == _recorded(here, "3", "knn", name)


def test_what_does_not_predict_or_was_not_asked_for_is_named(tmp_path: Path) -> None:
    net, data = _network(), _data()
    results = layerprobe.probe(net, data, layers="3", analyses=["mlp", "mean_difference"], progress=False)
    assert "mlp, near error" in repr(results.heads["3"].references)
    for name, said in (
        ("mean_difference", "'mean_difference' predicts nothing"),
        ("knn", r"No 'knn' of the layer '3' is kept; there are: mlp.*analysis=knn"),
        ("mpl", "No analysis 'mpl'.*mlp"),
    ):
        with pytest.raises(KeyError, match=said):
            results.heads["3"].references[name]
    results.save(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "references")  # as an older version wrote it
    older = layerprobe.load(tmp_path / "run")
    assert older.heads["3"].predict(net, data["test"]["near"][0]).tolist()
    with pytest.raises(KeyError, match=r"there are: none.*older versions"):
        older.heads["3"].references["mlp"]


def test_merged_results_and_a_checkpoint_that_is_forgotten(tmp_path: Path) -> None:
    net, data = _network(), _data()
    for layer in ("0", "3"):
        layerprobe.probe(net, data, layers=layer, analyses="nearest_mean", progress=False).save(tmp_path / layer)
    merge_results([tmp_path / "0", tmp_path / "3"], tmp_path / "merged")
    x, y = data["test"]["near"]
    merged = layerprobe.load(tmp_path / "merged")
    for layer in ("0", "3"):
        predicted = merged.heads[layer].references["nearest_mean"].predict(net, x)
        assert _error(predicted, y, "classes") == _recorded(merged, layer, "nearest_mean", "near")
    layerprobe.probe(net, data, layers="3", progress=False).save(tmp_path / "merged", overwrite=True)
    assert not [file for file in (tmp_path / "merged" / "references").glob("**/*") if file.is_file()]
