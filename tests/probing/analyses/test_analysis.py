"""Analyses see no test sample before they read it, answer in metrics, and take nothing from one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import layerprobe
from helpers.digits import Pairs, shuffled_digits
from helpers.small_memory import ROOM, probed_with
from layerprobe.probing.analyses.analysis import AbstractAnalysis, LayerData, Metric, Reading, TestSet
from layerprobe.probing.features.reducers import RandomSubset
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.tasks.regression import Regression


@pytest.fixture(scope="module")
def digits() -> Pairs:
    return shuffled_digits(1, 600, 200, 300)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 16), nn.ReLU())


@dataclass(frozen=True)
class Seen(AbstractAnalysis):
    """Keeps what it is given."""

    given: list[object]
    name: ClassVar[str] = "seen"

    def fit(self, layer: LayerData) -> Reading:
        self.given.append(layer)

        def read(test_sets: Mapping[str, TestSet]) -> Iterable[Metric]:
            self.given.append(test_sets)
            return [Metric("answer", 42.0, test_set="test", head="other", n_train=7)]

        return read


@dataclass(frozen=True)
class Failing(AbstractAnalysis):
    name: ClassVar[str] = "failing"

    def fit(self, layer: LayerData) -> Reading:
        raise RuntimeError("nothing to be had")


@pytest.mark.filterwarnings("ignore:.*zero standard deviation")
def test_nearest_mean_is_scikit_learns(digits: Pairs, network: nn.Module) -> None:
    results = layerprobe.probe(network, digits, analyses="nearest_mean")
    metrics = results.metrics
    errors = metrics[(metrics["head"] == "nearest_mean") & (metrics["metric"] == "error")].set_index("layer")
    with torch.no_grad():
        hidden = {split: network[0](x) for split, (x, _) in digits.items()}  # type: ignore[index]
    layers = {
        "input": {s: x for s, (x, _) in digits.items()},
        "0": hidden,
        "1": {s: h.relu() for s, h in hidden.items()},
    }
    assert list(errors.index) == list(layers)
    for name, features in layers.items():
        scaler = StandardScaler().fit(features["train"].double())
        reference = NearestCentroid().fit(scaler.transform(features["train"].double()), digits["train"][1])
        wrong = reference.predict(scaler.transform(features["test"].double())) != digits["test"][1].numpy()
        assert errors.loc[name, "value"] == pytest.approx(wrong.mean())
        assert errors.loc[name, "low"] < errors.loc[name, "value"] < errors.loc[name, "high"]


@pytest.mark.parametrize("refit", [False, True])
def test_what_an_analysis_is_given(digits: Pairs, network: nn.Module, refit: bool) -> None:
    given: list[object] = []
    protocol = ProbeProtocol(layers="0", analyses=(Seen(given),), refit=refit)
    (result,) = probe_checkpoint(network, digits, protocol)
    layer, tests = given
    assert isinstance(layer, LayerData)
    assert isinstance(tests, dict)
    assert isinstance(layer.train, Tensor)
    assert isinstance(layer.val, Tensor)
    assert set(layer.labels.splits) == {"train", "val"}
    with torch.no_grad():
        hidden = {split: network[0](x) for split, (x, _) in digits.items()}  # type: ignore[index]
    mean, scale = hidden["train"].mean(0), hidden["train"].std(0, correction=0)
    for found, split in ((layer.train, "train"), (layer.val, "val"), (tests["test"].features, "test")):
        torch.testing.assert_close(found, (hidden[split] - mean) / scale, atol=1e-4, rtol=1e-4)
    assert np.array_equal(tests["test"].correct, result.correct)
    answer, seconds = result.metrics
    assert (answer.head, answer.metric, answer.value, answer.n_train) == ("other", "answer", 42.0, 7)
    assert (seconds.head, seconds.metric, seconds.n_train, seconds.layer) == ("seen", "seconds", 600, "0")


def test_the_record_is_the_same_with_and_without(digits: Pairs, network: nn.Module) -> None:
    def records(protocol: ProbeProtocol) -> list[str]:
        return [repr(replace(result.record, seconds=0.0)) for result in probe_checkpoint(network, digits, protocol)]

    assert records(ProbeProtocol()) == records(ProbeProtocol(analyses=(layerprobe.NearestMean(), Seen([]))))


def test_a_population_has_no_intervals_but_those_over_draws(digits: Pairs, network: nn.Module) -> None:
    analyses = (layerprobe.NearestMean(), layerprobe.FewShot(samples=(1,), draws=3))
    protocol = ProbeProtocol(layers="0", analyses=analyses, population=True)
    (result,) = probe_checkpoint(network, digits, protocol)
    ends = {metric.head: (metric.low, metric.high) for metric in result.metrics if metric.metric == "error"}
    assert np.isnan(ends["nearest_mean"]).all()
    assert np.isfinite(ends["few_shot"]).all()


def test_all_layers_draw_with_one_seed(digits: Pairs, network: nn.Module) -> None:
    given: list[Any] = []
    protocol = ProbeProtocol(reducers=(RandomSubset(8),), seeds=(3, 4, 5), analyses=(Seen(given),))
    chosen = [result.record.seed for result in probe_checkpoint(network, digits, protocol)]
    assert set(chosen) > {3}, "ways of other seeds are chosen"
    assert [layer.seed for layer in given[::2]] == [3] * len(chosen)


def test_one_that_fails(digits: Pairs, network: nn.Module) -> None:
    protocol = ProbeProtocol(layers="0", analyses=(Failing(), layerprobe.NearestMean()))
    (result,) = probe_checkpoint(network, digits, protocol)
    assert result.record.status == "converged"
    assert result.record.message == "failing: RuntimeError: nothing to be had"
    assert {metric.head for metric in result.metrics} == {"nearest_mean"}


def test_a_layer_on_disk_gives_the_same(digits: Pairs, network: nn.Module) -> None:
    def errors(room: int) -> list[float]:
        metrics = probed_with(room, network, digits, analyses=(layerprobe.NearestMean(),)).metrics
        return metrics[metrics["metric"] == "error"]["value"].tolist()

    assert errors(1 << 15) == errors(ROOM)


def test_what_is_refused(digits: Pairs, network: nn.Module) -> None:
    nearest = layerprobe.NearestMean()
    with pytest.raises(ValueError, match=r"`nearest_mean` needs classes, found the task regression"):
        ProbeProtocol(task=Regression(), solvers=(Ridge(),), analyses=(nearest,))
    with pytest.raises(ValueError, match="'nearest_mean' twice"):
        ProbeProtocol(analyses=(nearest, nearest))
    with pytest.raises(ValueError, match="`analyses` needs features that are kept"):
        ProbeProtocol(solvers=(Ridge(),), stream=True, analyses=(nearest,))
    with pytest.raises(ValueError, match="nearest_mean"):
        layerprobe.probe(network, digits, analyses="nearest_meen")
