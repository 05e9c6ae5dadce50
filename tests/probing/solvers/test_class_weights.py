from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as ScikitLearnRidge
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from layerprobe.probing.features.reducers import Flatten
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.duality_gap import certify
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Status
from layerprobe.probing.tasks.class_weights import check_class_weight, class_weights
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.multi_label import MultiLabel
from layerprobe.probing.tasks.task import PathFit

L2 = torch.logspace(-4, 0, 3, dtype=torch.float64)


def made(n: int, d: int, c: int, apart: float, seed: int = 0, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Standardised features in float64 (of a rank), and classes of which the first has most samples."""
    g = torch.Generator().manual_seed(seed)
    share = torch.tensor([0.7] + [0.3 / (c - 1)] * (c - 1))
    y = torch.cat([torch.arange(c), torch.multinomial(share, n - c, replacement=True, generator=g)])
    inner = rank or d
    x = torch.randn(n, inner, generator=g) + apart * torch.randn(c, inner, generator=g)[y]
    if rank is not None:
        x = x @ torch.randn(rank, d, generator=g)
    return ((x - x.mean(0)) / x.std(0)).double(), y


def objective(x: Tensor, y: Tensor, w: np.ndarray, b: np.ndarray, l2: float, weights: np.ndarray) -> float:
    losses, counts = -log_softmax(x.numpy() @ w.T + b, 1)[np.arange(len(y)), y], weights[y]
    return float((counts * losses).sum() / counts.sum() + 0.5 * l2 * (w**2).sum())


def scikit_learn(
    x: Tensor, y: Tensor, l2: float, c: int, weight: str | dict[int, float], total: float
) -> tuple[np.ndarray, np.ndarray]:
    """Its optimum at the same objective: C·Σw_i = 1/l2, and twice that for its one vector of two classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strength = (2 if c == 2 else 1) / (l2 * total)
        head = LogisticRegression(C=strength, tol=1e-10, max_iter=20_000, class_weight=weight).fit(x, y)
    w, b = head.coef_, head.intercept_
    return (np.vstack([-w, w]) / 2, np.concatenate([-b, b]) / 2) if c == 2 else (w, b)


PROBLEMS = {
    "newton, two classes": made(300, 10, 2, 0.3),
    "newton, more classes": made(300, 8, 3, 0.5, 1),
    "newton, separable": made(200, 40, 3, 3.0, 2),
    "l-bfgs": made(400, 120, 6, 0.3, 3),
    "l-bfgs, two classes": made(500, 1100, 2, 0.05, 4),
    "more features than samples": made(80, 200, 4, 0.4, 5),
    "few dimensions": made(500, 260, 4, 0.4, 6, rank=12),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("weight", ["balanced", {0: 0.5, 1: 7.0}], ids=["balanced", "given"])
def test_objective_is_scikit_learns_and_the_certificate_holds(name: str, weight: str | dict[int, float]) -> None:
    x, y = PROBLEMS[name]
    c = int(y.max()) + 1
    weights = class_weights(weight, y, torch.arange(c))  # type: ignore[arg-type]
    assert weights is not None
    if weight == "balanced":
        expected = compute_class_weight("balanced", classes=np.arange(c), y=y.numpy())
        np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-14)
    found = Logistic(tolerance=1e-8).solve(x, y, c, L2, weights=weights)
    assert set(found.status) == {Status.CONVERGED}
    for w, b, at, gap, l2 in zip(*map(list, (found.weight, found.bias, found.objective, found.gap, L2)), strict=True):
        theirs = scikit_learn(x, y, float(l2), c, weight, float(weights[y].sum()))
        best = objective(x, y, *theirs, float(l2), weights.numpy())
        mine = objective(x, y, w.numpy(), b.numpy(), float(l2), weights.numpy())
        assert float(at) == pytest.approx(mine, rel=1e-9)
        assert mine <= best * (1 + 1e-7)
        assert mine * (1 - float(gap)) <= best * (1 + 1e-12)


def test_float32_and_rough_paths_end_with_the_same_certificate() -> None:
    x, y = PROBLEMS["l-bfgs"]
    weights = class_weights("balanced", y, torch.arange(6))
    exact = Logistic(tolerance=1e-9).solve(x, y, 6, L2, weights=weights)
    rough = Logistic().solve(x.float(), y, 6, L2, rough=True, weights=weights)
    assert rough.certify is not None
    found = rough.certify([0, 1, 2])
    assert set(found.status) == {Status.CONVERGED}
    torch.testing.assert_close(found.objective, exact.objective, rtol=1e-5, atol=0)


def test_certificate_of_equal_weights_is_the_one_without() -> None:
    x, y = PROBLEMS["newton, more classes"]
    found = Logistic().solve(x, y, 3, L2)
    plain, equal = (
        certify(x, y, found.weight, found.bias, L2, weights) for weights in (None, torch.ones(3, dtype=torch.float64))
    )
    for name in ("objective", "bound", "slope"):
        torch.testing.assert_close(getattr(plain, name), getattr(equal, name), rtol=1e-12, atol=1e-15)


def test_a_class_without_a_sample_takes_no_part() -> None:
    x, y = PROBLEMS["newton, two classes"]
    weights = class_weights("balanced", 2 * y, torch.arange(3))
    found = Logistic().solve(x, 2 * y, 3, L2, weights=weights)
    without = Logistic().solve(x, y, 2, L2, weights=class_weights("balanced", y, torch.arange(2)))
    torch.testing.assert_close(found.objective, without.objective)


@pytest.mark.parametrize("largest", [6144, 5])
@pytest.mark.parametrize("shape", [(200, 15, 3), (50, 90, 2)])
def test_ridge_is_scikit_learns(shape: tuple[int, int, int], largest: int) -> None:
    x, y = made(*shape, 0.3)
    n, _, c = shape
    weights = class_weights("balanced", y, torch.arange(c))
    assert weights is not None
    found = Ridge(largest=largest, tolerance=1e-12).solve(x, y, c, L2, weights=3 * weights)
    assert set(found.status) == {Status.CONVERGED}
    for w, b, l2 in zip(found.weight, found.bias, L2.tolist(), strict=True):
        theirs = ScikitLearnRidge(alpha=l2 * n, solver="svd").fit(x, np.eye(c)[y], sample_weight=weights[y].numpy())
        np.testing.assert_allclose(w.numpy(), theirs.coef_, atol=1e-6)
        np.testing.assert_allclose(b.numpy(), theirs.intercept_, atol=1e-6)


def test_leave_one_out_is_what_is_found_by_leaving_out() -> None:
    x, y = made(60, 8, 3, 0.3)
    weights = class_weights("balanced", y, torch.arange(3))
    assert weights is not None
    found = Ridge(leave_one_out=True).solve(x, y, 3, L2, weights=weights).left_out
    assert found is not None
    truth, counts, out = np.eye(3)[y], weights[y].numpy(), np.zeros((60, 3))
    for i in range(60):
        rest = np.arange(60) != i
        head = ScikitLearnRidge(alpha=float(L2[1]) * 60, solver="svd")
        out[i] = head.fit(x[rest], truth[rest], sample_weight=counts[rest]).predict(x[i : i + 1])[0]
    assert float(found.loss[1]) == pytest.approx(0.5 * np.square(out - truth).sum(1).mean())
    assert float(found.error[1]) == pytest.approx((out.argmax(1) != y.numpy()).mean())


def test_each_label_is_balanced_by_its_own_frequency() -> None:
    x, y = PROBLEMS["newton, more classes"]
    columns = torch.stack([(y == 1).long(), (y == 2).long()], 1)
    task = MultiLabel(class_weight="balanced")
    labels = task.labels({"train": columns, "val": columns, "test": columns})
    path = PathFit(x, L2, lambda: pytest.fail("no spectrum is needed"))
    found = task.fit(Logistic(), path, columns, labels)
    for i in range(2):
        alone = Logistic().solve(
            x, columns[:, i], 2, L2, weights=class_weights("balanced", columns[:, i], torch.arange(2))
        )
        torch.testing.assert_close(found.weight[:, i], alone.weight[:, 1] - alone.weight[:, 0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("equal", "Give balanced"),
        ({0: 0.0}, "above 0"),
        ({0: float("inf")}, "above 0"),
        ({"cat": 2.0}, "'cat'"),
    ],
)
def test_weights_that_cannot_be_are_refused(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_class_weight(given)


def test_a_class_that_train_does_not_have_is_named() -> None:
    task = Classification(class_weight={7: 2.0})
    _, y = PROBLEMS["newton, two classes"]
    with pytest.raises(ValueError, match=r"class 7, which train does not have\. Its classes: 3, 4"):
        task.labels({"train": y + 3, "test": y + 3})


def test_weights_of_labels_are_those_of_having_one_or_not() -> None:
    assert MultiLabel(class_weight={0: 1.0, 1: 5.0}).class_weight == {0: 1.0, 1: 5.0}
    with pytest.raises(ValueError, match="multi_label names 2"):
        MultiLabel(class_weight={0: 1.0, 2: 5.0})


def test_refit_balances_train_and_validation_together() -> None:
    x, y = made(600, 6, 3, 0.4)
    data = {split: (x[i::3].float(), y[i::3]) for i, split in enumerate(("train", "val", "test"))}
    solvers, task = (Logistic(tolerance=1e-8),), Classification(class_weight="balanced")
    protocol = ProbeProtocol(layers="input", reducers=(Flatten(),), solvers=solvers, task=task, l2=(0.01,), refit=True)
    (result,) = probe_checkpoint(nn.Identity(), data, protocol)
    assert result.record.refit
    both = torch.cat([data["train"][0], data["val"][0]]).double()
    z = (both - torch.from_numpy(result.head["mean"])) / torch.from_numpy(result.head["scale"])
    truth = torch.cat([data["train"][1], data["val"][1]])
    weights = class_weights("balanced", truth, torch.arange(3))
    assert weights is not None
    mine, best = (
        objective(z, truth, w.astype(np.float64), b, 0.01, weights.numpy())
        for w, b in (
            (result.head["weight"], result.head["bias"]),
            scikit_learn(z, truth, 0.01, 3, "balanced", float(len(truth))),
        )
    )
    assert mine == pytest.approx(best, rel=1e-6)
