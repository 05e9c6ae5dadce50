"""References beside the linear head: what they read that it cannot, nothing where there is nothing, each test once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn

import layerprobe
from helpers.digits import shuffled_digits
from helpers.small_memory import ROOM, probed_with
from layerprobe.statistics.intervals import tango_interval

REFERENCES = (layerprobe.NearestMean(), layerprobe.NearestNeighbours(), layerprobe.MLP(seeds=2))


def _parts(x, y, sizes):
    ends = np.cumsum([0, *sizes])
    return {s: (x[a:b], y[a:b]) for s, a, b in zip(("train", "val", "test"), ends, ends[1:], strict=False)}


@pytest.fixture(scope="module")
def digits():
    return shuffled_digits(1, 600, 200, 300)


def _measured(results, head, metric, layer="input"):
    rows = results.metrics.query("head == @head and metric == @metric and layer == @layer")
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbours_are_scikit_learns_of_the_best_k(digits, metric):
    knn = layerprobe.NearestNeighbours(k=(1, 3, 7, 15), metric=metric)
    results = layerprobe.probe(nn.Identity(), digits, analyses=knn)
    scaler = StandardScaler().fit(digits["train"][0])
    x = {split: scaler.transform(inputs) for split, (inputs, _) in digits.items()}
    y = {split: targets.numpy() for split, (_, targets) in digits.items()}
    fitted = {k: KNeighborsClassifier(k, metric=metric).fit(x["train"], y["train"]) for k in knn.k}
    best = min(fitted, key=lambda k: ((fitted[k].predict(x["val"]) != y["val"]).mean(), -k))
    assert _measured(results, "knn", "k").value == best
    wrong = fitted[best].predict(x["test"]) != y["test"]
    error, difference = (_measured(results, "knn", name) for name in ("error", "error_difference"))
    assert error.value == pytest.approx(wrong.mean(), abs=1.5 / len(wrong))  # where classes have equally many
    correct = results.correct["input"].to_numpy()
    assert difference.value == pytest.approx((~correct).mean() - error.value)
    if error.value == pytest.approx(wrong.mean()):
        only_knn, only_linear = int((~wrong & ~correct).sum()), int((wrong & correct).sum())
        low, high = tango_interval(only_knn, only_linear, len(wrong))
        assert (difference.low, difference.high) == pytest.approx((float(low), float(high)))


def test_what_a_linear_head_cannot_read():
    x = torch.randn(2400, 2, generator=torch.Generator().manual_seed(0))
    data = _parts(x, (x[:, 0] * x[:, 1] > 0).long(), (1000, 400, 1000))
    results = layerprobe.probe(nn.Identity(), data, analyses=REFERENCES)
    assert results["test_error"].item() > 0.4
    for name in ("knn", "mlp"):
        assert _measured(results, name, "error").value < 0.05
        assert _measured(results, name, "error_difference").low > 0.35
    assert _measured(results, "nearest_mean", "error").value > 0.4
    seeds = [_measured(results, "mlp", f"{which}_error_of_seeds").value for which in ("lowest", "mean", "highest")]
    assert seeds == sorted(seeds)
    assert seeds[0] <= _measured(results, "mlp", "error").value <= seeds[2]


def test_nothing_beats_the_linear_head_where_it_is_the_best_there_is():
    draws = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (2400,), generator=draws)
    x = torch.randn(2400, 8, generator=draws) + torch.randn(3, 8, generator=draws)[y]
    results = layerprobe.probe(nn.Identity(), _parts(x, y, (1000, 400, 1000)), analyses=REFERENCES)
    for name in ("nearest_mean", "knn", "mlp"):
        assert _measured(results, name, "error_difference").low <= 0
        assert abs(_measured(results, name, "error_difference").value) < 0.04


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_labels_and_numbers(task):
    x = torch.randn(1200, 2, generator=torch.Generator().manual_seed(0))
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 0]], 1)
    y = (y > 0).long() if task == "multi_label" else y
    results = layerprobe.probe(
        nn.Identity(), _parts(x, y, (500, 200, 500)), task=task, solver="ridge", analyses=REFERENCES[1:]
    )
    for name in ("knn", "mlp"):
        error, difference = (_measured(results, name, metric) for metric in ("error", "error_difference"))
        assert error.low < error.value < error.high
        assert error.value < results["test_error"].item()
        assert difference.value == pytest.approx(results["test_error"].item() - error.value, abs=1e-5)
        assert 0.1 < difference.low < difference.value < difference.high


@pytest.mark.parametrize(
    ("options", "compared"),
    [
        ({"selection": "loss"}, True),
        ({"selection": "balanced_error"}, False),
        ({"task": layerprobe.Classification(class_weight="balanced")}, False),
    ],
)
def test_a_head_of_another_aim_is_not_compared(digits, options, compared):
    results = layerprobe.probe(nn.Identity(), digits, analyses=REFERENCES[:2], l2=[1e-2, 1e-1], **options)
    found = results.metrics
    assert set(found[found["metric"] == "error"]["head"]) == {"nearest_mean", "knn"}
    assert found["metric"].eq("error_difference").any() == compared


def test_features_on_disk_give_the_same(digits):
    def values(room):
        asked = (*REFERENCES[:2], layerprobe.MLP(steps=30))
        metrics = probed_with(room, nn.Identity(), digits, analyses=asked).metrics
        return metrics[metrics["metric"] != "seconds"]["value"].tolist()

    assert values(1 << 15) == values(ROOM)


def test_no_validation_split_is_refused_before_anything_is_probed(digits):
    without = {split: digits[split] for split in ("train", "test")}
    for reference in REFERENCES[1:]:
        with pytest.raises(ValueError, match="val"):
            layerprobe.probe(nn.Identity(), without, l2=[0.1], analyses=reference)
    assert len(layerprobe.probe(nn.Identity(), without, l2=[0.1], analyses="nearest_mean").metrics)


def test_what_is_no_number_of_neighbours_is_refused():
    with pytest.raises(ValueError, match=r"`k` of `knn` is \[0\]"):
        layerprobe.NearestNeighbours(k=(0,))
    wrong: Any = "manhattan"
    with pytest.raises(Exception, match="euclidean"):  # the tests' check of types speaks first
        layerprobe.NearestNeighbours(metric=wrong)
