from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import Ridge as SklearnRidge

from helpers.reference import L2, made, ridge, ridge_objective, standardise
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Status
from layerprobe.probing.solvers.spectrum import Spectrum


def samples(name):
    if name == "tall":
        return made(200, 15, 4, 0.5)
    if name == "wide":
        return made(30, 80, 3, 0.5)
    if name == "square":
        return made(40, 40, 3, 0.5)
    if name == "duplicated":
        features, targets = made(200, 15, 4, 0.5)
        return np.hstack([features, features, np.zeros((200, 2), dtype=np.float32)]), targets
    data = {"wine": load_wine, "breast cancer": load_breast_cancer, "digits": load_digits}[name]()
    return standardise(data.data).astype(np.float32), data.target


def fit(features, targets, c, l2=L2, spectrum=None):
    return Ridge().solve(
        torch.as_tensor(features),
        torch.as_tensor(targets),
        c,
        torch.as_tensor(np.asarray(l2, dtype=np.float64)),
        spectrum,
    )


@pytest.mark.parametrize("name", ["tall", "wide", "square", "duplicated", "wine", "breast cancer", "digits"])
def test_is_the_least_squares_solution(name):
    features, targets = samples(name)
    c = int(targets.max()) + 1
    l2 = [*L2, 0.0]
    solution = fit(features, targets, c, l2)
    assert set(solution.status) == {Status.CONVERGED}
    for i, value in enumerate(l2):
        weight, bias, objective = ridge(features, targets, c, value)
        np.testing.assert_allclose(solution.weight[i], weight, atol=2e-6 * np.abs(weight).max(), rtol=1e-5)
        np.testing.assert_allclose(solution.bias[i], bias, atol=1e-6)
        np.testing.assert_allclose(solution.objective[i], objective, rtol=1e-9, atol=1e-12)
        reached = ridge_objective(solution.weight[i].numpy(), solution.bias[i].numpy(), features, targets, value)
        np.testing.assert_allclose(reached, objective, rtol=1e-6, atol=1e-10)


def test_float64_features_give_float64_answers():
    features, targets = samples("tall")
    solution = fit(features.astype(np.float64), targets, 4)
    for i, value in enumerate(L2):
        np.testing.assert_allclose(solution.weight[i], ridge(features, targets, 4, value)[0], rtol=1e-8, atol=1e-11)


def test_agrees_with_scikit_learn():
    features, targets = samples("wine")
    x, y = features.astype(np.float64), np.eye(3)[targets]
    solution = fit(x, targets, 3)
    for i, value in enumerate(L2):
        theirs = SklearnRidge(alpha=value * len(x), solver="svd").fit(x, y)
        np.testing.assert_allclose(solution.weight[i], theirs.coef_, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(solution.bias[i], theirs.intercept_, rtol=1e-7)


@pytest.mark.parametrize("name", ["tall", "wide"])
def test_the_callers_spectrum_changes_nothing(name):
    features, targets = samples(name)
    given_one = fit(features, targets, 4, spectrum=lambda: Spectrum.of(torch.as_tensor(features)))
    np.testing.assert_allclose(given_one.weight, fit(features, targets, 4).weight, atol=1e-7)


def test_without_a_penalty_the_weights_are_the_smallest_that_fit():
    features, targets = samples("wide")
    solution = fit(features, targets, 3, [0.0])
    fitted = features.astype(np.float64) @ solution.weight[0].double().numpy().T + solution.bias[0].double().numpy()
    np.testing.assert_allclose(fitted, np.eye(3)[targets], atol=1e-4)
    smallest = ridge(features, targets, 3, 0.0)[0]
    np.testing.assert_allclose(np.linalg.norm(solution.weight[0]), np.linalg.norm(smallest), rtol=1e-5)


def test_features_that_are_not_finite_diverge():
    features, targets = samples("tall")
    features = features.copy()
    features[0, 0] = np.nan
    assert set(fit(features, targets, 4).status) == {Status.DIVERGED}


def test_finds_the_classes_and_finds_nothing_in_shuffled_labels():
    features, targets = made(1200, 10, 3, 1.0)
    shuffled = np.random.default_rng(0).permutation(targets)

    def errors(labels):
        solution = fit(features[:600], labels[:600], 3)
        scores = np.einsum("pcd,nd->pnc", solution.weight.numpy(), features[600:]) + solution.bias.numpy()[:, None]
        return (scores.argmax(2) != labels[600:]).mean(1)

    assert errors(targets).min() < 0.2
    assert (abs(errors(shuffled) - 2 / 3) < 0.08).all()


@hypothesis_settings(max_examples=10)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(2, 40))
def test_properties_of_the_optimum(seed, c, d):
    features, targets = made(20 + c, d, c, 1.0, seed)
    x, y = features.astype(np.float64), np.eye(c)[targets]
    rng = np.random.default_rng(seed)
    l2 = np.array([1e-4, 1e-1])
    plain = fit(x, targets, c, l2)
    for weight, bias, value in zip(plain.weight.numpy(), plain.bias.numpy(), l2, strict=True):
        residual = x @ weight.T + bias - y
        assert np.abs(residual.mean(0)).max() < 1e-9
        assert np.abs(residual.T @ x / len(x) + value * weight).max() < 1e-9
    order, names = rng.permutation(len(x)), rng.permutation(c)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    close = {"rtol": 1e-6, "atol": 1e-8}
    np.testing.assert_allclose(fit(x[order], targets[order], c, l2).weight, plain.weight, **close)
    np.testing.assert_allclose(fit(x, names[targets], c, l2).weight[:, names], plain.weight, **close)
    np.testing.assert_allclose(fit(x @ rotation, targets, c, l2).weight.numpy() @ rotation.T, plain.weight, **close)
    doubled = fit(np.concatenate([x, x]), np.concatenate([targets, targets]), c, l2)
    np.testing.assert_allclose(doubled.weight, plain.weight, **close)
