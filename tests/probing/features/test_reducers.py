from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from layerprobe.probing.features.reducers import AveragePool, ChannelMean, Flatten, RandomSubset, average_along

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@given(shape=SHAPES, budget=st.integers(1, 200), seed=st.integers(0, 3))
def test_every_reducer_keeps_its_promise(shape: tuple[int, ...], budget: int, seed: int) -> None:
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    for reducer in (Flatten(), AveragePool(budget), ChannelMean(), RandomSubset(budget)):
        reduction = reducer.fit(shape, seed)
        features = reduction(x)
        assert features.shape == (3, reduction.n_features)
        torch.testing.assert_close(features[1:2], reduction(x[1:2]))
        if reducer.name in ("average_pool", "random_subset"):
            assert reduction.n_features <= budget


def test_flatten_is_the_layer_itself_and_a_copy() -> None:
    x = torch.randn(2, 3, 4)
    features = Flatten().fit((3, 4), 0)(x)
    assert torch.equal(features, x.reshape(2, 12))
    x.zero_()
    assert features.any(), "the features changed when the network went on in place"


def test_average_pool_is_adaptive_average_pooling() -> None:
    x = torch.randn(2, 32, 28, 28)
    reduction = AveragePool(1024).fit((32, 28, 28), 0)
    assert reduction.description == "average 32x28x28 -> 32x5x5"
    torch.testing.assert_close(reduction(x), F.adaptive_avg_pool2d(x, 5).flatten(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(shape=SHAPES, data=st.data())
def test_several_averages_along_any_axis_are_to_the_bit_those_along_the_last(
    shape: tuple[int, ...], data: st.DataObject, dtype: torch.dtype
) -> None:
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(math.prod(shape)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    size = data.draw(st.integers(min(2, shape[axis]), shape[axis]))
    last = x.movedim(axis, -1).contiguous()
    expected = F.adaptive_avg_pool1d(last.view(1, -1, shape[axis]), size).view(*last.shape[:-1], size)
    assert torch.equal(average_along(x, axis, size), expected.movedim(-1, axis))


def test_average_pool_leaves_what_fits() -> None:
    assert AveragePool(784).fit((1, 28, 28), 0).description == Flatten().fit((1, 28, 28), 0).description


def test_average_pool_uses_most_of_its_budget() -> None:
    for shape in ((64, 14, 14), (3, 224, 224), (96, 55, 31), (12, 768)):
        reduction = AveragePool(1024).fit(shape, 0)
        assert 0.5 * min(1024, math.prod(shape)) < reduction.n_features <= 1024


def test_tokens_keep_their_features() -> None:
    x = torch.randn(2, 12, 768)
    torch.testing.assert_close(ChannelMean().fit((12, 768), 0)(x), x.mean(1))
    torch.testing.assert_close(AveragePool(768).fit((12, 768), 0)(x), x.mean(1))


def test_channel_mean_of_an_image() -> None:
    x = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(ChannelMean().fit((5, 4, 4), 0)(x), x.mean((2, 3)))
    torch.testing.assert_close(ChannelMean(channel_axis=-1).fit((5, 4, 4), 0)(x), x.mean((1, 2)))


def test_random_subset_is_fixed_by_its_seed() -> None:
    x = torch.arange(100.0).repeat(2, 1)
    first, again, other = (RandomSubset(10).fit((100,), seed)(x)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique()) == 10


def test_half_precision_is_widened() -> None:
    assert Flatten().fit((4,), 0)(torch.randn(2, 4, dtype=torch.bfloat16)).dtype == torch.float32
    assert Flatten().fit((4,), 0)(torch.randn(2, 4, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("make", [lambda: AveragePool(0), lambda: RandomSubset(0)])
def test_an_empty_budget_is_refused(make) -> None:
    with pytest.raises(ValueError, match="at least 1, found 0"):
        make()


def test_a_wrong_channel_axis_is_refused() -> None:
    with pytest.raises(ValueError, match="channel_axis 3 is not an axis of a layer of shape 2x2"):
        ChannelMean(channel_axis=3).fit((2, 2), 0)
