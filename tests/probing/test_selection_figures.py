from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor, nn

from layerprobe.api.probe import probe
from layerprobe.api.results import ProbeResults
from layerprobe.probing.analyses.stability import Stability
from layerprobe.probing.heads import Heads
from layerprobe.probing.metrics.classification import balanced_accuracy
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.selection import PastBest
from layerprobe.probing.solvers import newton
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.spectrum import Spectrum
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.multi_label import MultiLabel
from layerprobe.probing.tasks.regression import Regression

L2 = [1e-3, 1e-1, 1.0]


def samples(n: int, seed: int, c: int = 3) -> tuple[Tensor, Tensor]:
    """Noisy features, and classes of which the first has most samples."""
    g = torch.Generator().manual_seed(seed)
    y = torch.multinomial(torch.tensor([0.8] + [0.2 / (c - 1)] * (c - 1)), n, replacement=True, generator=g)
    centres = torch.randn(c, 20, generator=torch.Generator().manual_seed(9))
    return 0.35 * centres[y] + torch.randn(n, 20, generator=g), y


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Identity())


def figures(kind: str, scores: np.ndarray, truth: np.ndarray) -> float:
    """What is chosen by, computed by scikit-learn."""
    if kind == "balanced_error":
        return 1 - balanced_accuracy_score(truth, scores.argmax(1))
    z = np.exp(scores - scores.max(1, keepdims=True))
    p = z / z.sum(1, keepdims=True)
    if kind == "auc":
        return 1 - (roc_auc_score(truth, p[:, 1]) if p.shape[1] == 2 else roc_auc_score(truth, p, multi_class="ovr"))
    return -np.log(p[np.arange(len(truth)), truth]).mean()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["loss", "balanced_error", "auc"])
def test_head_with_the_lowest_figure_is_chosen(kind: str, classes: int) -> None:
    data = {split: samples(n, i, classes) for i, (split, n) in enumerate([("train", 150), ("val", 120), ("test", 60)])}
    alone: list[ProbeResults] = [probe(network(), data, l2=[l2]) for l2 in L2]
    found = []
    for results in alone:
        head = results.heads["input"]
        found.append(figures(kind, head.decision_function(data["val"][0]).double().numpy(), data["val"][1].numpy()))
    ranked = sorted(range(len(L2)), key=lambda i: (round(found[i], 9), alone[i]["val_loss"].item(), -L2[i]))
    for path in ("full", "chosen"):
        results = probe(network(), data, l2=L2, selection=kind, path=path)
        assert results["l2"].item() == L2[ranked[0]]
        assert results["message"].item() == f"chosen by {kind}"
        assert results.path.loc[results.path["selected"], "l2"].item() == L2[ranked[0]]


def test_ridge_and_multi_label_are_chosen_by_it_too() -> None:
    x, y = samples(300, 0)
    data = {s: (x[i::3], y[i::3]) for i, s in enumerate(("train", "val", "test"))}
    assert probe(network(), data, solver="ridge", l2=L2, selection="auc")["status"].item() == "converged"
    labels = {s: (x, torch.stack([(y == 1).long(), (y == 2).long()], 1)) for s, (x, y) in data.items()}
    for kind in ("balanced_error", "auc", "loss"):
        found = probe(network(), labels, task=MultiLabel(), l2=L2, selection=kind)
        assert found["message"].item() == f"chosen by {kind}"


def test_leave_one_out_chooses_by_loss() -> None:
    x, y = samples(300, 0)
    data = {"train": (x[:200], y[:200]), "test": (x[200:], y[200:])}
    found = probe(network(), data, solver=Ridge(leave_one_out=True), l2=L2, selection="loss")
    assert found["l2"].item() == found.path.loc[found.path["loo_loss"].idxmin(), "l2"]


@pytest.mark.parametrize("solver", ["logistic", "ridge"])
def test_what_validation_does_not_give_is_refused_before_any_fit(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerprobe.probing.fitting._fit_way", lambda *_, **__: pytest.fail("a head was fitted"))
    x, y = samples(200, 0, 2)
    one = {"train": (x, y), "val": (x[y == 0], y[y == 0]), "test": (x, y)}
    with pytest.raises(ValueError, match=r"`selection` is auc.* all of one class\..* set selection=error"):
        probe(network(), one, solver=solver, l2=L2, selection="auc")
    labels = {split: (x, torch.stack([y, y], 1)) for split, (x, y) in one.items()}
    with pytest.raises(ValueError, match=r"`selection` is auc.*of a label, some that have it"):
        probe(network(), labels, task=MultiLabel(), solver=solver, l2=L2, selection="auc")
    unknown = {**one, "val": (x, torch.full_like(y, 7))}
    for selection in ("error", "loss", "balanced_error"):
        with pytest.raises(ValueError, match=rf"`selection` is {selection}.* no sample of a class that train has"):
            probe(network(), unknown, solver=solver, l2=L2, selection=selection)


def test_walk_ends_past_the_best_figure_not_the_best_error() -> None:
    figures = iter([(0.5, 1.0), (0.4, 0.9), (0.3, 1.0), (0.3, 1.1), (0.3, 1.2)])
    past = PastBest(2, lambda heads: tuple(torch.tensor([value]) for value in next(figures)))
    assert [past(torch.zeros(2, 1), torch.zeros(2)) for _ in range(5)] == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"selection": "accuracy"}, "there is: error, loss, balanced_error, auc"),
        ({"selection": "auc", "task": Regression(), "solvers": [Ridge()]}, "there is: error, loss"),
        ({"selection": "auc", "solvers": [Ridge(leave_one_out=True)]}, "leaving samples out does not give"),
        ({"selection": "loss", "solvers": [Logistic(), Ridge()]}, "each of the solvers logistic, ridge"),
    ],
)
def test_what_cannot_choose_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbeProtocol(**{"task": Classification(), "solvers": [Logistic()], **arguments})  # type: ignore[arg-type]


def test_balanced_accuracy_counts_an_unknown_class_as_wrong() -> None:
    truth, predicted = torch.tensor([0, 0, 1, -1]), torch.tensor([0, 1, 1, 1])
    assert balanced_accuracy(predicted, truth) == pytest.approx((0.5 + 1 + 0) / 3)
    assert not math.isnan(balanced_accuracy(predicted[:1], truth[:1]))


@pytest.mark.parametrize("kind", ["loss", "balanced_error", "auc"])
def test_one_head_without_validation_is_the_best_by_any_figure(kind: str) -> None:
    data = {"train": samples(150, 0), "test": samples(60, 1)}
    assert probe(network(), data, l2=[0.1], selection=kind)["l2"].item() == 0.1


def test_loss_chooses_among_samples_of_known_classes() -> None:
    train, val, test = (samples(n, i) for i, n in enumerate((150, 120, 60)))
    data = {"train": train, "val": val, "test": test}
    more = {**data, "val": (torch.cat([val[0], val[0][:1]]), torch.cat([val[1], torch.tensor([7])]))}
    known, unknown = (probe(network(), each, l2=L2, selection="loss") for each in (data, more))
    assert known["l2"].item() == unknown["l2"].item() < max(L2)
    assert unknown["val_loss"].item() == pytest.approx(known["val_loss"].item(), rel=1e-6)
    assert unknown["val_error"].item() == pytest.approx((known["val_error"].item() * 120 + 1) / 121)


def test_loss_where_no_class_or_not_each_is_known() -> None:
    task, heads, x = Classification(), Heads(torch.zeros(1, 2, 1), torch.zeros(1, 2)), torch.zeros(2, 1)
    targets = torch.tensor([0, -1])
    errors, losses = task.evaluate(heads, x, targets, Logistic())
    assert errors.item() == 0.5
    assert losses.item() == pytest.approx(math.log(2))
    assert task.measure(heads, x, targets, Logistic()).loss == math.inf
    assert task.evaluate(heads, x, torch.full((2,), -1), Logistic())[1].isnan().all()


def test_labels_share_one_spectrum_when_they_are_fitted_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "SAMPLE_BYTES", 0)  # which has no need of one
    g, asked, of = torch.Generator().manual_seed(0), [], Spectrum.of
    x, y = torch.randn(90, 1100, generator=g), torch.randint(2, (90, 3), generator=g)
    monkeypatch.setattr(Spectrum, "of", staticmethod(lambda features: asked.append(len(features)) or of(features)))
    data = {s: (x[i::3], y[i::3]) for i, s in enumerate(("train", "val", "test"))}
    protocol = ProbeProtocol(
        layers="input", task=MultiLabel(), l2=(0.1, 1.0), refit=True, analyses=[Stability(divisions=1)]
    )
    (result,) = probe_checkpoint(nn.Identity(), {split: [part] for split, part in data.items()}, protocol)
    assert result.record.status == "converged"
    assert sorted(asked) == [15, 15, 30, 60]


def test_metrics_that_fail_are_told_of_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OverflowError("math range error")

    monkeypatch.setattr("layerprobe.probing.head_scores.score_metrics", fail)
    data = {split: samples(n, i) for i, (split, n) in enumerate([("train", 150), ("val", 120), ("test", 60)])}
    found = probe(network(), data, l2=L2, metrics=["auc"])
    assert found["status"].item() == "failed"
    assert found["message"].item() == "OverflowError: math range error"
