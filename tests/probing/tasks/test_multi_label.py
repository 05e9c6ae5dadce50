from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, hamming_loss, roc_auc_score
from torch import Tensor, nn

import layerprobe
from layerprobe.probing.heads import Heads
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.tasks.multi_label import MultiLabel
from layerprobe.probing.tasks.task import PathFit

L2 = torch.tensor([1e-3, 1e-1], dtype=torch.float64)
TASK = MultiLabel()


def made(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    noise = 0.7 * torch.randn(n, 3, generator=generator)
    rule = torch.tensor([[1.0, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 2]])
    return x, (x @ rule.T + noise > torch.tensor([0.0, 0.5, -1.0])).long()


def test_each_label_has_the_head_that_scikit_learn_fits_alone() -> None:
    x, y = made(300)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    labels = TASK.labels({"train": y})
    solution = TASK.fit(Logistic(), PathFit.of(x, L2.tolist()), y, labels)
    assert {str(status) for status in solution.status} == {"converged"}
    for point, l2 in enumerate(L2.tolist()):
        for label in range(3):
            reference = LogisticRegression(C=2 / (l2 * len(x)), tol=1e-10, max_iter=10_000).fit(x, y[:, label])
            scores = x @ solution.weight[point, label] + solution.bias[point, label]
            np.testing.assert_allclose(scores, reference.decision_function(x), atol=2e-2 * float(scores.abs().max()))


@pytest.mark.parametrize("solver", [Logistic(), Ridge()])
def test_figures_are_those_of_scikit_learn(solver: Logistic | Ridge) -> None:
    (x, y), (test_x, test_y) = made(300), made(200, seed=1)
    labels = TASK.labels({"train": y, "test": test_y})
    solution = TASK.fit(solver, PathFit.of(x, L2.tolist()), y, labels)
    head = Heads(solution.weight, solution.bias)[0]
    found = TASK.measure(head, test_x, test_y, solver)
    scores = (test_x @ head.weight[0].T + head.bias[0]).numpy()
    assert found.error == pytest.approx(hamming_loss(test_y, scores > 0))
    assert found.f1 == pytest.approx(f1_score(test_y, scores > 0, average="macro"))
    assert found.auc == pytest.approx(roc_auc_score(test_y, scores))
    assert torch.equal(found.correct, (torch.tensor(scores > 0) == (test_y == 1)).all(1))
    assert found.low < found.error < found.high
    errors, losses = TASK.evaluate(Heads(solution.weight, solution.bias), test_x, test_y, solver)
    assert float(errors[0]) == pytest.approx(found.error)
    signs = 2 * test_y.numpy() - 1
    expected = (
        np.log1p(np.exp(-signs * scores)).mean() if isinstance(solver, Logistic) else ((scores - signs) ** 2 / 4).mean()
    )
    assert float(losses[0]) == pytest.approx(expected, rel=1e-4)
    assert TASK.constant_error(labels) == pytest.approx(
        hamming_loss(test_y, np.tile(y.double().mean(0) > 0.5, (200, 1)))
    )


@pytest.mark.parametrize(("shared", "share"), [(True, 0.3), (False, 0.3), (False, 0.02)])
def test_the_interval_covers_the_true_error(shared: bool, share: float) -> None:
    """A head that answers 0 errs exactly where a label is 1: four labels that agree, or that are independent."""
    generator = torch.Generator().manual_seed(0)
    head = Heads(torch.zeros(1, 4, 1), torch.full((1, 4), -1.0))
    covered = 0
    for _ in range(400):
        y = (torch.rand(200, 1 if shared else 4, generator=generator) < share).long().expand(-1, 4)
        found = TASK.measure(head, torch.zeros(200, 1), y, Ridge())
        covered += found.low <= share <= found.high
    assert covered >= 0.92 * 400


def test_a_label_that_never_varies_on_train_is_answered_as_it_was() -> None:
    x, y = made(200)
    y[:, 1] = 1
    task = MultiLabel()
    solution = task.fit(Logistic(), PathFit.of(x, L2.tolist()), y, task.labels({"train": y}))
    assert (x @ solution.weight[0, 1] + solution.bias[0, 1] > 0).all()
    with pytest.raises(ValueError, match="No label varies"):
        task.labels({"train": torch.ones(5, 2, dtype=torch.long)})


@pytest.mark.parametrize(
    ("targets", "found"),
    [(torch.tensor([0, 1]), r"int64 of shape \(2,\)"), (torch.tensor([[0, 2]]), "the value 2"), ([[0, 1]], "a list")],
)
def test_other_targets_are_refused(targets: object, found: str) -> None:
    with pytest.raises(TypeError, match=rf"found {found} in the val split"):
        TASK.read(targets, "val")
    assert TASK.read(torch.tensor([[0.0, 1.0]]), "val").dtype == torch.int64


def test_probing_a_network_for_several_labels() -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
    data = {split: made(200, seed) for seed, split in enumerate(("train", "val", "test"))}
    found = layerprobe.probe(network, data, task=MultiLabel(), l2=[1e-2], controls=["shuffled"])
    assert set(found["task"]) == {"multi_label"}
    assert (found["n_classes"] == 3).all()
    assert (found["test_error"] < found["majority_error"]).all()
    assert (found["shuffled_error"] > found["test_error"]).all()
    assert found["test_r2"].isna().all()


def test_a_label_that_train_never_has_is_no_part_of_the_area() -> None:
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.stack([x[:, 0] > 0, x[:, 1] > 0, x[:, 2] > 0], 1).long()
    unseen = labels.clone()
    unseen[:, 2] = 0
    data = {"train": (x[:100], unseen[:100]), "val": (x[100:200], labels[100:200]), "test": (x[200:], labels[200:])}
    found = layerprobe.probe(torch.nn.Identity(), data, layers="input", task=MultiLabel(), l2=[1e-2])
    assert found["test_auc"].item() > 0.98, "with the area of the third label, 0.5, it is 0.83"
    assert found["test_error"].item() > 0.1, "its errors count all the same"
