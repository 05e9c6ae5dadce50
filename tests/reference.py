"""Slow, independent references in float64."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax


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
