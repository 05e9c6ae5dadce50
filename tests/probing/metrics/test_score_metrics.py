from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_calibration_error, multilabel_average_precision

from layerprobe.probing.metrics.score_metrics import (
    SCORE_METRICS,
    Scored,
    _interval,
    answers_of_resamples,
    rankings_of_resamples,
    score_metrics,
)


def of_classes(n: int, c: int, *, unknown: int = 0, seed: int = 0) -> Scored:
    g = np.random.default_rng(seed)
    y = g.choice(c, size=n, p=np.array([0.6] + [0.4 / (c - 1)] * (c - 1)))
    z = g.normal(size=(n, c)) + 1.5 * np.eye(c)[y]
    z = np.round(z, 1)  # with ties
    y[:unknown] = -1
    return Scored(y, z.argmax(1), z, softmax(z, 1))


def of_labels(n: int, c: int) -> Scored:
    g = np.random.default_rng(1)
    y = (g.random((n, c)) < np.linspace(0.1, 0.5, c)).astype(int)
    z = g.normal(size=(n, c)) + 1.5 * y - 1
    return Scored(y, (z > 0).astype(int), z, expit(z))


def test_two_classes_are_scikit_learns() -> None:
    s = of_classes(300, 2)
    found = {name: value for name, (value, *_) in score_metrics(SCORE_METRICS, s).items()}
    p = s.probabilities
    assert p is not None
    false, true, _ = sk.roc_curve(s.truth, s.ranking[:, 1])
    ece = multiclass_calibration_error(torch.tensor(p), torch.tensor(s.truth), num_classes=2, n_bins=15)
    assert found == pytest.approx(
        {
            "balanced_accuracy": sk.balanced_accuracy_score(s.truth, s.predicted),
            "macro_f1": sk.f1_score(s.truth, s.predicted, average="macro"),
            "weighted_f1": sk.f1_score(s.truth, s.predicted, average="weighted"),
            "auc": sk.roc_auc_score(s.truth, s.ranking[:, 1]),
            "average_precision": sk.average_precision_score(s.truth, s.ranking[:, 1]),
            "recall_at_1_fpr": max(t for f, t in zip(false, true, strict=True) if f <= 0.01),
            "brier": sk.brier_score_loss(s.truth, p[:, 1]),
            "calibration_error": float(ece),
        },
        abs=1e-6,
    )


def test_more_classes_are_scikit_learns() -> None:
    s = of_classes(400, 5)
    p, onehot = s.probabilities, np.eye(5)[s.truth]
    assert p is not None
    found = {name: value for name, (value, *_) in score_metrics(SCORE_METRICS, s).items()}
    ece = multiclass_calibration_error(torch.tensor(p), torch.tensor(s.truth), num_classes=5, n_bins=15)
    assert found["auc"] == pytest.approx(sk.roc_auc_score(onehot, s.ranking, average="macro"))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(onehot, s.ranking, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(s.truth, s.predicted))
    assert found["brier"] == pytest.approx(5 * sk.mean_squared_error(onehot, p))
    assert found["calibration_error"] == pytest.approx(float(ece), abs=1e-6)


def test_labels_are_means_over_them() -> None:
    s = of_labels(300, 3)
    found = {name: value for name, (value, *_) in score_metrics(SCORE_METRICS, s).items()}
    truth = torch.tensor(s.truth)
    assert found["macro_f1"] == pytest.approx(sk.f1_score(s.truth, s.predicted, average="macro"))
    assert found["weighted_f1"] == pytest.approx(sk.f1_score(s.truth, s.predicted, average="weighted"))
    assert found["balanced_accuracy"] == pytest.approx(
        np.mean([sk.balanced_accuracy_score(t, p) for t, p in zip(s.truth.T, s.predicted.T, strict=True)])
    )
    expected = multilabel_average_precision(torch.tensor(s.probabilities), truth, num_labels=3)
    assert found["average_precision"] == pytest.approx(float(expected), abs=1e-6)
    assert found["brier"] == pytest.approx(sk.mean_squared_error(s.truth, s.probabilities))
    one = Scored(s.truth[:, :1], s.predicted[:, :1], s.ranking[:, :1], None)
    assert score_metrics(["macro_f1"], one)["macro_f1"][0] == pytest.approx(sk.f1_score(one.truth, one.predicted))


@pytest.mark.parametrize("scored", [of_classes(80, 2), of_classes(90, 4), of_labels(70, 3)], ids=["2", "4", "labels"])
def test_resamples_are_what_scikit_learn_makes_of_weighted_samples(scored: Scored) -> None:
    n, g = len(scored.truth), np.random.default_rng(3)
    counts = g.multinomial(n, [1 / n] * n, size=5).astype(float)
    for question in scored.questions:
        found = rankings_of_resamples(question.yes, question.scores, counts)
        for i, weights in enumerate(counts):
            kwargs = {"sample_weight": weights}
            false, true, _ = sk.roc_curve(question.yes, question.scores, drop_intermediate=False, **kwargs)
            assert found["auc"][i] == pytest.approx(sk.roc_auc_score(question.yes, question.scores, **kwargs))
            expected = sk.average_precision_score(question.yes, question.scores, **kwargs)
            assert found["average_precision"][i] == pytest.approx(expected)
            assert found["recall_at_1_fpr"][i] == pytest.approx(true[false <= 0.01].max())
    truth, predicted = scored.truth, scored.predicted
    kinds = range(scored.ranking.shape[1])
    tables = [t if scored.of_labels else np.equal.outer(t, kinds).astype(float) for t in (truth, predicted)]
    right = counts @ (tables[0] * tables[1])
    found = answers_of_resamples(right, counts @ tables[0], counts @ tables[1], n, labels=scored.of_labels)
    for i, weights in enumerate(counts):
        for name in ("macro", "weighted"):
            expected = sk.f1_score(truth, predicted, average=name, sample_weight=weights)
            assert found[f"{name}_f1"][i] == pytest.approx(expected)
        if not scored.of_labels:
            expected = sk.balanced_accuracy_score(truth, predicted, sample_weight=weights)
            assert found["balanced_accuracy"][i] == pytest.approx(expected)


def test_intervals_cover_what_they_should() -> None:
    """The error of a metric over fresh samples is what its interval says; of 30 test sets most intervals hold it."""
    names = ("balanced_accuracy", "macro_f1", "average_precision", "brier")
    truth = {name: value for name, (value, *_) in score_metrics(names, of_classes(20_000, 3, seed=99)).items()}
    inside = dict.fromkeys(names, 0)
    for seed in range(30):
        for name, (_, low, high) in score_metrics(names, of_classes(200, 3, seed=seed)).items():
            inside[name] += low <= truth[name] <= high
    assert all(count >= 26 for count in inside.values()), inside


def test_what_has_no_interval_or_no_value() -> None:
    few = score_metrics(["auc"], of_classes(8, 2, seed=4))["auc"]
    assert all(map(math.isnan, few[1:]))
    s = of_classes(60, 2)
    perfect = Scored(s.truth, s.truth, np.eye(2)[s.truth], None)
    assert score_metrics(["auc"], perfect)["auc"] == pytest.approx((1.0, math.nan, math.nan), nan_ok=True)
    assert score_metrics(["brier", "calibration_error"], perfect) == {}
    alone = Scored(np.zeros(20, dtype=int), s.predicted[:20], s.ranking[:20], None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(score_metrics(SCORE_METRICS, alone)) == {"balanced_accuracy", "macro_f1", "weighted_f1"}


@pytest.mark.parametrize("c", [2, 4])
def test_a_class_that_train_does_not_have_counts_as_wrong(c: int) -> None:
    s = of_classes(200, c, unknown=20)
    found = {name: value for name, (value, *_) in score_metrics(SCORE_METRICS, s).items()}
    known = s.truth >= 0
    p = s.probabilities
    assert p is not None
    assert found["balanced_accuracy"] == pytest.approx(
        sk.recall_score(s.truth, s.predicted, average="macro", labels=[-1, *range(c)])
    )
    assert found["auc"] == pytest.approx(
        score_metrics(["auc"], Scored(s.truth[known], s.predicted[known], s.ranking[known], None))["auc"][0]
    )
    assert (
        found["brier"]
        > score_metrics(["brier"], Scored(s.truth[known], s.predicted[known], s.ranking[known], p[known]))["brier"][0]
    )


@pytest.mark.parametrize("value", [1e-9, 1 - 1e-9])
def test_the_interval_of_a_share_near_its_end_is_the_whole_range(value: float) -> None:
    low, high = _interval("auc", value, 0.01)
    assert 0 <= low <= value <= high <= 1
    assert high - low == pytest.approx(1, abs=1e-6)
    odds, spread = math.log(0.7 / 0.3), 1.96 * 0.05 / (0.7 * 0.3)
    expected = tuple(1 / (1 + math.exp(-(odds + side * spread))) for side in (-1, 1))
    assert _interval("auc", 0.7, 0.05) == pytest.approx(expected, rel=1e-14)
