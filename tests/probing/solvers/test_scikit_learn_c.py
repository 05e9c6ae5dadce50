from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

import layerprobe
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.scikit_learn_c import ScikitLearnC


@pytest.mark.parametrize("n_classes", [2, 5])
def test_one_head_without_scaling_and_validation_is_scikit_learns(n_classes: int) -> None:
    x, y = load_digits(n_class=n_classes, return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    # Noise, so that the penalty and the errors are not trivial.
    x = (x[order] + np.random.default_rng(1).normal(scale=12, size=x.shape)).astype(np.float32) / 16
    y = y[order]
    train, test = slice(0, 200), slice(200, None)
    expected = LogisticRegression(C=0.3, tol=1e-10, max_iter=10_000).fit(x[train], y[train])

    data = {
        "train": (torch.tensor(x[train]), torch.tensor(y[train])),
        "test": (torch.tensor(x[test]), torch.tensor(y[test])),
    }
    protocol = ProbeProtocol(l2=ScikitLearnC([0.3]), standardise=False)
    (result,) = probe_checkpoint(nn.Identity(), data, protocol)
    record, head = result.record, result.head
    assert record.l2 == pytest.approx((2 if n_classes == 2 else 1) / (0.3 * 200))
    assert record.test_error == pytest.approx(1 - expected.score(x[test], y[test]), abs=1.5 / len(y[test]))
    assert 0 < record.test_error < 0.5
    assert (record.n_train, record.n_val, record.n_test) == (200, 0, len(y) - 200)
    assert np.isnan(record.val_error)
    assert record.status == "converged"
    weight = head["weight"]
    if n_classes == 2:
        assert np.allclose(weight[1] - weight[0], expected.coef_[0], atol=2e-3)
    else:
        assert np.allclose(weight, expected.coef_ - expected.coef_.mean(0), atol=2e-3)
    assert (head["mean"] == 0).all()
    assert (head["scale"] == 1).all()


def test_several_heads_need_a_validation_split() -> None:
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    data = {"train": (x, y), "test": (x, y)}
    with pytest.raises(ValueError, match="val: the head of each layer is chosen on it"):
        layerprobe.probe(nn.Identity(), data, l2=[0.1, 1.0])
    assert layerprobe.probe(nn.Identity(), data, l2=[0.1], controls=["shuffled"])["shuffled_error"].notna().all()


def test_a_c_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="C holds 0"):
        ScikitLearnC([0.0])
