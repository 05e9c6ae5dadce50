"""Slow, independent references in float64."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

L2 = np.logspace(-6, 1, 12)


def logistic_objective(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, l2: float) -> float:
    """Mean cross-entropy + ½·l2·‖W‖² at a head of shape (c, d) and (c,)."""
    z = x.astype(np.float64) @ weight.astype(np.float64).T + bias.astype(np.float64)
    loss = -log_softmax(z, axis=1)[np.arange(len(y)), y].mean()
    return float(loss + 0.5 * l2 * (weight.astype(np.float64) ** 2).sum())


def logistic_optimum(x: np.ndarray, y: np.ndarray, c: int, l2: float) -> float:
    """The optimum's value, by trust-region Newton with exact Hessian products; starts from a stronger penalty."""
    x = np.hstack([x.astype(np.float64), np.ones((len(x), 1))])
    (n, e), onehot = x.shape, np.eye(c)[y]
    penalised = np.append(np.ones(e - 1), 0.0)

    def value(v: np.ndarray, strength: float) -> float:
        w = v.reshape(c, e)
        return float(-(log_softmax(x @ w.T, axis=1) * onehot).sum() / n + 0.5 * strength * (penalised * w**2).sum())

    def gradient(v: np.ndarray, strength: float) -> np.ndarray:
        w = v.reshape(c, e)
        return ((softmax(x @ w.T, axis=1) - onehot).T @ x / n + strength * penalised * w).ravel()

    def product(v: np.ndarray, u: np.ndarray, strength: float) -> np.ndarray:
        w, s = v.reshape(c, e), u.reshape(c, e)
        p, t = softmax(x @ w.T, axis=1), x @ s.T
        return ((p * (t - (p * t).sum(1, keepdims=True))).T @ x / n + strength * penalised * s).ravel()

    v = np.zeros(c * e)
    for strength in [*(l2 * 10.0**k for k in range(int(np.ceil(-np.log10(l2))), 0, -1)), l2]:
        options = {"gtol": 1e-11, "maxiter": 500}
        v = minimize(value, v, args=(strength,), jac=gradient, hessp=product, method="trust-ncg", options=options).x
    return value(v, l2)


def standardise(features: np.ndarray) -> np.ndarray:
    """Centre, and scale to unit variance; constant columns become zero."""
    centred = features - features.mean(0)
    scale = centred.std(0)
    return centred / np.where(scale > 1e-12, scale, 1.0)


def made(
    n: int, d: int, c: int, separation: float, seed: int = 0, *, decay: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Correlated, skewed features with class means `separation` apart; float32, every class present."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, d + 1.0) ** (-decay / 2)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    targets = rng.permutation(np.arange(n) % c)
    means = rng.normal(size=(c, d)) * scale * separation
    features = (rng.normal(size=(n, d)) * scale + means[targets]) @ rotation
    return standardise(np.maximum(features, -0.5 * features.std())).astype(np.float32), targets


def softmax_objective(
    weight: np.ndarray, bias: np.ndarray, features: np.ndarray, targets: np.ndarray, l2: float
) -> float:
    """Mean cross-entropy + ½·l2·‖W‖²."""
    scores = features.astype(np.float64) @ weight.astype(np.float64).T + bias.astype(np.float64)
    return float(_losses(scores, targets).mean() + 0.5 * l2 * np.square(weight.astype(np.float64)).sum())


def softmax_regression(
    features: np.ndarray, targets: np.ndarray, n_classes: int, l2: float, tolerance: float = 1e-10
) -> tuple[np.ndarray, np.ndarray, float]:
    """Minimise by damped Newton steps with the whole Hessian, from zero; returns weight, bias, objective."""
    x = np.column_stack([features.astype(np.float64), np.ones(len(features))])
    n, e = x.shape
    penalty = np.full(e, l2)
    penalty[-1] = 0.0
    head = np.zeros((n_classes, e))
    own = np.arange(n), targets

    def value(head: np.ndarray) -> float:
        return float(_losses(x @ head.T, targets).mean() + 0.5 * (penalty * np.square(head)).sum())

    objective = value(head)
    for _ in range(300):
        scores = x @ head.T
        q = np.exp(scores - scores.max(1, keepdims=True))
        q /= q.sum(1, keepdims=True)
        residual = q.copy()
        residual[own] = 0.0
        residual[own] = -residual.sum(1)
        gradient = residual.T @ x / n + penalty * head
        hessian = np.empty((n_classes, e, n_classes, e))
        for i in range(n_classes):
            for j in range(i, n_classes):
                share = q[:, i] * (1 - q[:, i]) if i == j else -q[:, i] * q[:, j]
                block = (x * share[:, None]).T @ x / n
                hessian[i, :, j] = hessian[j, :, i] = block + (np.diag(penalty) if i == j else 0.0)
        flat = hessian.reshape(n_classes * e, -1)
        # A shift common to every bias changes nothing: pinned, so that Cholesky works.
        pin = np.zeros(e)
        pin[-1] = 1.0
        flat = flat + np.kron(np.ones((n_classes, n_classes)), np.diag(pin))
        flat[np.diag_indices_from(flat)] += 1e-14 * np.trace(flat) / len(flat)
        step = -np.linalg.solve(flat, gradient.ravel()).reshape(head.shape)
        slope = float((gradient * step).sum())
        if -slope <= tolerance * 1e-2 * objective:
            break
        length = 1.0
        while value(head + length * step) > objective + 1e-4 * length * slope and length > 1e-10:
            length /= 2
        head = head + length * step
        objective = value(head)
    return head[:, :-1], head[:, -1], objective


def ridge(features: np.ndarray, targets: np.ndarray, n_classes: int, l2: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Minimise ½·mean‖XWᵀ + b - Y‖² + ½·l2·‖W‖² as one least-squares problem; returns weight, bias, objective."""
    x = features.astype(np.float64)
    y = np.eye(n_classes)[targets]
    n, d = x.shape
    x_mean, y_mean = x.mean(0), y.mean(0)
    rows = np.vstack([(x - x_mean) / np.sqrt(n), np.sqrt(l2) * np.eye(d)])
    values = np.vstack([(y - y_mean) / np.sqrt(n), np.zeros((d, n_classes))])
    weight = np.linalg.lstsq(rows, values, rcond=1e-13 if l2 == 0 else None)[0].T
    bias = y_mean - weight @ x_mean
    return weight, bias, ridge_objective(weight, bias, features, targets, l2)


def ridge_objective(
    weight: np.ndarray, bias: np.ndarray, features: np.ndarray, targets: np.ndarray, l2: float
) -> float:
    """½·mean‖XWᵀ + b - Y‖² + ½·l2·‖W‖²."""
    weight, bias = weight.astype(np.float64), bias.astype(np.float64)
    distance = features.astype(np.float64) @ weight.T + bias - np.eye(len(bias))[targets]
    return float(0.5 * np.square(distance).sum(1).mean() + 0.5 * l2 * np.square(weight).sum())


def _losses(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    margins = scores - scores[np.arange(len(scores)), targets][:, None]
    highest = margins.max(1)
    others = np.exp(margins - highest[:, None])
    others[np.arange(len(scores)), targets] = 0.0
    return highest + np.log1p(others.sum(1) + np.expm1(-highest))
