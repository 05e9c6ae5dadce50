from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression

from helpers.reference import L2, made, softmax_objective, softmax_regression, standardise
from layerprobe.probing.solvers import l2_path, logistic, newton
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.softmax_objective import SoftmaxObjective
from layerprobe.probing.solvers.solution import Solution, Status
from layerprobe.probing.solvers.spectrum import Spectrum

SAMPLES = {
    "wine": lambda: _loaded(load_wine),
    "breast cancer": lambda: _loaded(load_breast_cancer),
    "digits, 5 classes": lambda: _loaded(load_digits, lambda x, y: (x[y < 5][:300, 10:40], y[y < 5][:300])),
    "overlapping": lambda: made(400, 12, 4, 0.7),
    "nearly separable": lambda: made(400, 12, 4, 2.0, decay=0.5),
    "separable": lambda: made(300, 20, 3, 8.0),
    "more features than samples": lambda: made(40, 90, 3, 0.3),
    "two classes": lambda: made(300, 15, 2, 0.5),
    "heavy tails": lambda: _heavy(),
}


@pytest.fixture(autouse=True, scope="module")
def _only_this_way():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(newton, "SAMPLE_BYTES", 0)
        yield


def _loaded(load, choose=lambda x, y: (x, y)):
    data = load()
    features, targets = choose(data.data, data.target)
    return standardise(features).astype(np.float32), targets


def _heavy():
    rng = np.random.default_rng(0)
    features = standardise(np.exp(1.5 * rng.normal(size=(300, 10))))
    return features.astype(np.float32), (features @ rng.normal(size=10) + 0.3 * rng.normal(size=300) > 0).astype(int)


@cache
def samples(name: str) -> tuple[np.ndarray, np.ndarray, int]:
    features, targets = SAMPLES[name]()
    return features, targets, int(targets.max()) + 1


@cache
def optimum(name: str, l2: float) -> float:
    features, targets, c = samples(name)
    return softmax_regression(features, targets, c, l2)[2]


def fit(features: np.ndarray, targets: np.ndarray, c: int, l2=L2, solver: Logistic | None = None) -> Solution:
    return (solver or Logistic()).solve(
        torch.as_tensor(features), torch.as_tensor(targets), c, torch.as_tensor(np.asarray(l2, dtype=np.float64))
    )


def objectives(solution: Solution, features: np.ndarray, targets: np.ndarray, l2=L2) -> np.ndarray:
    heads = zip(solution.weight.numpy(), solution.bias.numpy(), l2, strict=True)
    return np.array([softmax_objective(weight, bias, features, targets, value) for weight, bias, value in heads])


@pytest.mark.parametrize("name", SAMPLES)
def test_reaches_the_optimum_of_an_independent_newton_method(name):
    features, targets, c = samples(name)
    solution = fit(features, targets, c)
    best = np.array([optimum(name, value) for value in L2])
    reached = objectives(solution, features, targets)
    assert set(solution.status) == {Status.CONVERGED}
    assert (reached >= best * (1 - 1e-9)).all()
    np.testing.assert_allclose(reached, best, rtol=1e-5)
    np.testing.assert_allclose(solution.objective, reached, rtol=1e-9)
    assert (solution.gap >= 0).all()
    assert (solution.gap <= 1e-5).all()


@pytest.mark.parametrize("name", ["wine", "breast cancer", "nearly separable", "separable", "two classes"])
def test_is_never_worse_than_scikit_learn(name):
    features, targets, c = samples(name)
    ours = objectives(fit(features, targets, c), features, targets)
    for value, reached in zip(L2, ours, strict=True):
        # Two classes: scikit-learn penalises one vector w = 2W, so that its strength is half of ours.
        strength = 1 / (len(targets) * (value if c > 2 else value / 2))
        theirs = LogisticRegression(C=strength, tol=1e-6, max_iter=20_000).fit(features.astype(np.float64), targets)
        weight, bias = theirs.coef_, theirs.intercept_
        if c == 2:
            weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        expected = softmax_objective(weight, bias, features, targets, value)
        assert reached <= expected * (1 + 1e-5)
        if value >= 1e-3:  # further down, scikit-learn stops far above the optimum on separable data
            np.testing.assert_allclose(reached, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["overlapping", "nearly separable", "more features than samples", "heavy tails"])
@pytest.mark.parametrize("tolerance", [0.5, 1e-2, 1e-4])
def test_the_certificate_is_honest(name, tolerance):
    features, targets, c = samples(name)
    solution = fit(features, targets, c, solver=Logistic(tolerance=tolerance))
    reached = objectives(solution, features, targets)
    true = np.array([1 - optimum(name, value) / r for value, r in zip(L2, reached, strict=True)])
    assert (solution.gap.numpy() >= true - 1e-9).all()
    assert set(solution.status) == {Status.CONVERGED}


@pytest.mark.parametrize("name", ["breast cancer", "nearly separable"])
def test_a_solver_cut_short_is_not_believed(name):
    features, targets, c = samples(name)
    solution = fit(features, targets, c, solver=Logistic(max_iterations=2))
    reached = objectives(solution, features, targets)
    excess = reached / np.array([optimum(name, value) for value in L2]) - 1
    assert Status.STALLED in solution.status
    for status, above in zip(solution.status, excess, strict=True):
        assert status is Status.STALLED or above <= 1e-5
    assert (solution.gap.numpy() >= 1 - 1 / (1 + excess) - 1e-9).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tight_tolerance_is_met_by_float64(dtype):
    features, targets, c = samples("nearly separable")
    solution = fit(features.astype(dtype), targets, c, solver=Logistic(tolerance=1e-8))
    assert solution.weight.dtype == torch.as_tensor(features.astype(dtype)).dtype
    assert set(solution.status) == {Status.CONVERGED}
    np.testing.assert_allclose(solution.objective, [optimum("nearly separable", v) for v in L2], rtol=1e-8)


def test_finds_the_classes_and_finds_nothing_in_shuffled_labels():
    features, targets = made(1200, 10, 3, 1.0)
    train, test = slice(0, 600), slice(600, None)
    shuffled = np.random.default_rng(1).permutation(targets)

    def errors(labels):
        solution = fit(features[train], labels[train], 3)
        scores = np.einsum("pcd,nd->pnc", solution.weight.numpy(), features[test]) + solution.bias.numpy()[:, None]
        return (scores.argmax(2) != labels[test]).mean(1)

    assert errors(targets).min() < 0.2
    assert (abs(errors(shuffled) - 2 / 3) < 0.08).all()


@hypothesis_settings(max_examples=5)
@given(st.integers(0, 10**6), st.integers(2, 4), st.floats(0.0, 3.0))
def test_properties_of_the_optimum(seed, c, separation):
    features, targets = made(80, 6, c, separation, seed)
    rng = np.random.default_rng(seed)
    l2 = np.array([1e-4, 1e-1])
    tight = Logistic(tolerance=1e-9)
    plain = fit(features.astype(np.float64), targets, c, l2, tight)
    x = features.astype(np.float64)
    for weight, bias, value in zip(plain.weight.numpy(), plain.bias.numpy(), l2, strict=True):
        scores = x @ weight.T + bias
        q = np.exp(scores - scores.max(1, keepdims=True))
        residual = q / q.sum(1, keepdims=True) - np.eye(c)[targets]
        assert np.abs(residual.mean(0)).max() < 1e-5
        assert np.abs(residual.T @ x / len(x) + value * weight).max() < 1e-5
    order, names = rng.permutation(len(x)), rng.permutation(c)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    close = {"rtol": 0, "atol": 2e-3 * float(plain.weight.abs().max())}
    permuted = fit(x[order], targets[order], c, l2, tight)
    np.testing.assert_allclose(permuted.weight, plain.weight, **close)
    renamed = fit(x, names[targets], c, l2, tight)
    np.testing.assert_allclose(renamed.weight[:, names], plain.weight, **close)
    turned = fit(x @ rotation, targets, c, l2, tight)
    np.testing.assert_allclose(turned.weight @ torch.as_tensor(rotation).T, plain.weight, **close)
    doubled = fit(np.concatenate([x, x]), np.concatenate([targets, targets]), c, l2, tight)
    np.testing.assert_allclose(doubled.weight, plain.weight, **close)
    for other in (permuted, renamed, turned, doubled):
        np.testing.assert_allclose(other.objective, plain.objective, rtol=2e-9)


def test_the_same_call_gives_the_same_bits_and_leaves_the_features_alone():
    features, targets, c = samples("nearly separable")
    before = features.copy()
    first, second = fit(features, targets, c), fit(features, targets, c)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    np.testing.assert_array_equal(features, before)


def test_l2_values_may_come_in_any_order_and_twice():
    features, targets, c = samples("overlapping")
    l2 = np.array([1e-2, 10.0, 1e-2, 1e-4])
    solution = fit(features, targets, c, l2)
    np.testing.assert_allclose(solution.objective, [optimum("overlapping", value) for value in l2], rtol=1e-5)
    assert torch.equal(solution.weight[0], solution.weight[2])


@pytest.mark.parametrize("name", ["nearly separable", "breast cancer", "more features than samples"])
def test_a_single_weak_penalty_needs_no_path(name):
    features, targets, c = samples(name)
    solution = fit(features, targets, c, [L2[0]])
    assert solution.status == (Status.CONVERGED,)
    np.testing.assert_allclose(solution.objective, [optimum(name, L2[0])], rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_rough_value_is_left_where_a_step_brings_little(seed, monkeypatch):
    """Under a weak penalty and a steep spectrum the gap is far more than what is left to gain."""
    x, y = (torch.as_tensor(part) for part in made(1500, 100, 4, 0.5, seed, decay=3.0))
    l2 = torch.tensor([1e-1, 1e-3, 1e-5, 1e-7], dtype=torch.float64)
    best = Logistic().solve(x, y, 4, l2)
    found = Logistic().solve(x, y, 4, l2, rough=True)
    monkeypatch.setattr(l2_path, "_GAIN", 0.0)
    by_gap = Logistic().solve(x, y, 4, l2, rough=True)
    assert found.iterations.sum() < 0.6 * by_gap.iterations.sum()
    assert bool((found.objective <= 1.03 * best.objective).all())
    assert float(by_gap.gap.max()) <= 0.1 < float(found.gap.max())
    assert bool((found.objective * (1 - found.gap) <= best.objective).all()), "the gap bounds what is left"
    assert found.certify is not None
    assert found.certify(range(4)).status == (Status.CONVERGED,) * 4


@pytest.mark.parametrize("values", [[1e-2, 1e-4], [1e-3]])
def test_rough_heads_are_proved_in_the_precision_of_the_features_and_certified_ones_in_float64(values, monkeypatch):
    x, y = (torch.as_tensor(part) for part in made(400, 12, 4, 0.7))
    certify, precisions = logistic.certify, []

    def certifying(*given):
        precisions.append(given[6] if len(given) > 6 else torch.float64)
        return certify(*given)

    monkeypatch.setattr(logistic, "certify", certifying)
    l2 = torch.tensor(values, dtype=torch.float64)
    rough = Logistic().solve(x, y, 4, l2, rough=True)
    assert set(rough.status) == {Status.ROUGH}
    assert set(precisions) == {torch.float32}
    assert rough.certify is not None
    found = rough.certify(range(len(values)))
    assert precisions[-1] == torch.float64
    exact = certify(x, y, found.weight.double(), found.bias.double(), l2)
    torch.testing.assert_close(found.objective, exact.objective, rtol=1e-12, atol=0)
    assert bool((exact.bound <= found.objective * (1 - found.gap) + 1e-12).all()), "the best bound is kept"
    precisions.clear()
    assert set(Logistic().solve(x, y, 4, l2).status) == {Status.CONVERGED}
    assert set(precisions) == {torch.float64}


def test_what_may_be_certified_is_proved_in_float64(monkeypatch):
    """A rough walk may end within the tolerance: what says so is not of single precision."""
    x, y = (torch.as_tensor(part) for part in made(400, 12, 4, 0.7))
    certify, bounds = logistic.certify, []
    monkeypatch.setattr(logistic, "certify", lambda *given: bounds.append(certify(*given)) or bounds[-1])
    l2 = torch.tensor([1e-2, 100.0], dtype=torch.float64)
    found = Logistic(tolerance=0.05).solve(x, y, 4, l2, rough=True)
    assert set(found.status) == {Status.CONVERGED}
    assert len(bounds) == 2
    torch.testing.assert_close(found.objective * (1 - found.gap), bounds[1].bound, rtol=1e-12, atol=1e-14)


def test_a_spectrum_that_the_caller_has_is_used():
    features, targets, c = samples("overlapping")
    x = torch.as_tensor(features)
    solution = Logistic().solve(x, torch.as_tensor(targets), c, torch.as_tensor(L2), lambda: Spectrum.of(x))
    assert torch.equal(solution.weight, fit(features, targets, c).weight)


class TestNoPenalty:
    def test_overlapping_data_has_an_optimum(self):
        features, targets, c = samples("overlapping")
        solution = fit(features, targets, c, [0.0, 1e-3])
        assert solution.status == (Status.CONVERGED,) * 2
        np.testing.assert_allclose(solution.objective[0], optimum("overlapping", 0.0), rtol=1e-6)

    @pytest.mark.parametrize("name", ["separable", "more features than samples"])
    def test_separable_data_has_none(self, name):
        features, targets, c = samples(name)
        solution = fit(features, targets, c, [1e-3, 0.0])
        assert solution.status == (Status.CONVERGED, Status.STALLED)
        assert torch.isfinite(solution.weight).all()
        assert torch.isfinite(solution.gap).all()
        assert 0 <= solution.objective[1] < 1e-4


class TestAwkwardData:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_features_that_are_not_finite_diverge(self, value):
        features, targets, c = samples("overlapping")
        features = features.copy()
        features[3, 2] = value
        solution = fit(features, targets, c)
        assert set(solution.status) == {Status.DIVERGED}

    def test_constant_and_duplicated_columns(self):
        features, targets, c = samples("overlapping")
        zero = np.zeros((len(features), 2), dtype=np.float32)
        solution = fit(np.hstack([features, zero, features]), targets, c)
        assert set(solution.status) == {Status.CONVERGED}
        # Two copies of a column share its weight: as one column at half the penalty.
        np.testing.assert_allclose(solution.objective, [optimum("overlapping", v / 2) for v in L2], rtol=1e-5)
        assert solution.weight[:, :, 12:14].abs().max() < 1e-6

    def test_no_feature_at_all_leaves_the_class_shares(self):
        targets = np.array([0] * 30 + [1] * 10)
        solution = fit(np.zeros((40, 3), dtype=np.float32), targets, 2)
        assert set(solution.status) == {Status.CONVERGED}
        np.testing.assert_allclose(solution.bias.softmax(1)[0], [0.75, 0.25], rtol=1e-5)

    def test_classes_without_a_sample_are_never_predicted(self):
        features, targets, _ = samples("overlapping")
        moved = np.array([1, 2, 4, 6])[targets]
        solution = fit(features, moved, 8)
        assert set(solution.status) == {Status.CONVERGED}
        assert torch.isfinite(solution.bias).all()
        np.testing.assert_allclose(solution.objective, [optimum("overlapping", value) for value in L2], rtol=1e-5)
        np.testing.assert_allclose(objectives(solution, features, moved), solution.objective, rtol=1e-9)
        assert (solution.weight[:, [0, 3, 5, 7]] == 0).all()

    def test_one_class_only(self):
        features, targets, _ = samples("overlapping")
        solution = fit(features, np.ones_like(targets), 3)
        assert set(solution.status) == {Status.CONVERGED}
        np.testing.assert_allclose(objectives(solution, features, np.ones_like(targets)), 0, atol=1e-15)

    def test_classes_of_one_sample(self):
        features, targets, _ = samples("overlapping")
        targets = targets.copy()
        targets[targets == 3] = 0
        targets[5] = 3
        solution = fit(features, targets, 4)
        assert set(solution.status) == {Status.CONVERGED}
        for i in (0, 6, 11):
            np.testing.assert_allclose(
                solution.objective[i], softmax_regression(features, targets, 4, L2[i])[2], rtol=1e-5
            )

    def test_as_many_samples_as_classes(self):
        features, _, _ = samples("overlapping")
        solution = fit(features[:4], np.arange(4), 4)
        assert set(solution.status) == {Status.CONVERGED}

    def test_many_classes(self):
        features, targets = made(600, 30, 100, 3.0)
        solution = fit(features, targets, 100, L2[4:])
        assert set(solution.status) == {Status.CONVERGED}


@pytest.mark.slow
@pytest.mark.parametrize("separation", [0.12, 0.45, 1.2])
def test_a_problem_of_the_usual_size(separation):
    features, targets = made(4000, 256, 10, separation)
    solution = fit(features, targets, 10)
    assert set(solution.status) == {Status.CONVERGED}
    wide = fit(features.astype(np.float64), targets, 10, solver=dataclasses.replace(Logistic(), tolerance=1e-9))
    np.testing.assert_allclose(solution.objective, wide.objective, rtol=1e-5)
    assert (solution.objective >= wide.objective * (1 - 2e-9)).all()


@pytest.mark.slow
def test_digits_whole():
    data = load_digits()
    features = standardise(data.data).astype(np.float32)
    solution = fit(features, data.target, 10)
    assert set(solution.status) == {Status.CONVERGED}
    for i in (0, 5, 11):
        np.testing.assert_allclose(
            solution.objective[i], softmax_regression(features, data.target, 10, L2[i])[2], rtol=1e-5
        )


def test_of_many_classes_guesses_are_compared_on_some_samples(monkeypatch):
    """Once all samples are read, it is at the best of them; the curvature is that of some."""
    x, y = (torch.as_tensor(part) for part in made(1600, 12, 70, 3.0))
    evaluate, asked = SoftmaxObjective.__call__, []

    def counted(self, heads, l2, with_curvature):
        found = evaluate(self, heads, l2, with_curvature)
        asked.append((len(self.features), len(heads), with_curvature, found.objective.tolist()))
        return found

    monkeypatch.setattr(SoftmaxObjective, "__call__", counted)
    l2 = torch.tensor([1e-1, 1e-2, 1e-3], dtype=torch.float64)
    found = Logistic().solve(x, y, 70, l2)
    assert found.status == (Status.CONVERGED,) * 3
    whole = [(heads, curvature) for n, heads, curvature, _ in asked if n == 1600]
    some = [(heads, curvature) for n, heads, curvature, _ in asked if n == 160]
    assert {heads for heads, _ in whole} == {1}
    assert sum(curvature for _, curvature in whole) <= len(whole) // 4
    assert max(heads for heads, _ in some) > 1
    assert all(curvature for _, curvature in some)
    monkeypatch.setattr(l2_path, "_ENOUGH", 10**6)
    without = Logistic().solve(x, y, 70, l2)
    torch.testing.assert_close(found.objective, without.objective, rtol=1e-5, atol=0)
