from __future__ import annotations

import pytest
import torch
from sklearn.preprocessing import StandardScaler

from layerprobe.probing.features.scaler import Standardiser


def test_equals_scikit_learn() -> None:
    x = torch.randn(500, 7, dtype=torch.float64) * 3 + 5
    expected = StandardScaler().fit_transform(x.numpy())
    torch.testing.assert_close(Standardiser.fit(x).apply_(x.clone()), torch.from_numpy(expected))


def test_a_large_mean_costs_the_variance_nothing() -> None:
    x = (torch.randn(4000, 3, dtype=torch.float64) * 0.5 + 1000).float()
    torch.testing.assert_close(Standardiser.fit(x).scale.double(), x.double().std(0, correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1 / 3, -7.7, 1e6, 12345.678, 1e-20])
def test_a_constant_feature_becomes_zero(value: float, dtype: torch.dtype) -> None:
    x = torch.randn(10_007, 2, dtype=dtype)
    x[:, 1] = value
    standardiser = Standardiser.fit(x)
    assert standardiser.constant.tolist() == [False, True]
    assert (standardiser.apply_(x.clone())[:, 1] == 0).all()


def test_another_split_is_not_looked_at() -> None:
    train, test = torch.randn(50, 4), torch.randn(50, 4) * 9 + 9
    standardised = Standardiser.fit(train).apply_(test.clone())
    assert standardised.mean() > 1, "the test split was standardised with statistics of its own"


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e150, 1e200, 1e300])
def test_numbers_whose_squares_overflow_or_vanish_are_standardised_all_the_same(size: float) -> None:
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2
    x[:, 2] = 1.0
    expected = Standardiser.fit(x).apply_(x.clone())
    found = Standardiser.fit(x * size)
    assert found.constant.tolist() == [False, False, True]
    torch.testing.assert_close(found.apply_(x * size), expected, rtol=1e-9, atol=1e-9)
