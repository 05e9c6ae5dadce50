from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from layerprobe.probing.features.reducers import Flatten
from layerprobe.probing.features.token_reducers import (
    AbstractTokenReducer,
    FirstToken,
    LastToken,
    MeanToken,
    TokenIndex,
)

REDUCERS = (LastToken(), FirstToken(), MeanToken(), TokenIndex(0), TokenIndex(-1))
MASKS = st.integers(1, 7).flatmap(
    lambda t: st.lists(
        st.lists(st.booleans(), min_size=t, max_size=t).filter(any),
        min_size=1,
        max_size=4,
    )
)


def one_by_one(reducer: AbstractTokenReducer, tokens: list[Tensor]) -> Tensor:
    """The tokens of one sample, without padding, in float64."""
    match reducer:
        case LastToken():
            return tokens[-1].double()
        case FirstToken():
            return tokens[0].double()
        case MeanToken():
            return torch.stack(tokens).double().mean(0)
        case TokenIndex(index):
            return tokens[index].double()
    raise NotImplementedError


@given(mask=MASKS, seed=st.integers(0, 3))
def test_padding_never_counts_wherever_it_is(mask: list[list[bool]], seed: int) -> None:
    n, t = len(mask), len(mask[0])
    x = torch.randn(n, t, 3, generator=torch.Generator().manual_seed(seed))
    x[~torch.tensor(mask)] = -torch.inf  # padding may hold anything
    for reducer in REDUCERS:
        found = reducer.fit((t, 3), 0, sequence=(0,))(x, torch.tensor(mask))
        for i, row in enumerate(mask):
            expected = one_by_one(reducer, [x[i, j] for j in range(t) if row[j]])
            torch.testing.assert_close(found[i].double(), expected, rtol=1e-6, atol=1e-6)


def test_other_axes_are_kept_wherever_the_sequence_is() -> None:
    x = torch.randn(2, 4, 5, 3)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]]).bool()
    reduction = LastToken().fit((4, 5, 3), 0, sequence=(1,))
    assert (reduction.n_features, reduction.description) == (12, "last token of 4xTx3 -> 12")
    assert torch.equal(reduction(x, mask), torch.stack([x[0, :, 2], x[1, :, 4]]).flatten(1))
    assert reduction.fits((4, 9, 3), (4, 5, 3)), "another length is the same layer"
    assert not reduction.fits((4, 5, 2), (4, 5, 3))


def test_an_attention_map_is_reduced_along_queries_and_keys() -> None:
    attention = torch.rand(2, 3, 4, 4)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]]).bool()
    last = LastToken().fit((3, 4, 4), 0, sequence=(1, 2))(attention, mask)
    assert torch.equal(last, torch.stack([attention[0, :, 1, 1], attention[1, :, 3, 3]]))
    mean = MeanToken().fit((3, 4, 4), 0, sequence=(1, 2))(attention, mask)
    by_hand = torch.stack([attention[0, :, :2, :2].mean((1, 2)), attention[1, :, 1:, 1:].mean((1, 2))])
    torch.testing.assert_close(mean, by_hand)


def test_a_layer_without_the_sequence_is_flattened() -> None:
    for reducer in REDUCERS:
        assert reducer.fit((6, 2), 0).description == Flatten().fit((6, 2), 0).description


def test_without_a_mask_every_place_counts() -> None:
    x = torch.randn(2, 4, 3)
    assert torch.equal(LastToken().fit((4, 3), 0, sequence=(0,))(x), x[:, -1])
    torch.testing.assert_close(MeanToken().fit((4, 3), 0, sequence=(0,))(x), x.mean(1))


def test_features_are_copies_and_wide() -> None:
    x = torch.randn(2, 4, 3, dtype=torch.bfloat16)
    mean = MeanToken().fit((4, 3), 0, sequence=(0,))(x)
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean, x.float().mean(1))
    wide = x.float()
    last = LastToken().fit((4, 3), 0, sequence=(0,))(wide)
    wide.zero_()
    assert last.any()


@pytest.mark.parametrize("index", [3, -4])
def test_a_token_that_a_sample_does_not_have(index: int) -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    reduction: Any = TokenIndex(index).fit((4, 2), 0, sequence=(0,))
    with pytest.raises(ValueError, match=rf"no token {index} in a sample of 3 tokens.*last_token"):
        reduction(torch.randn(2, 4, 2), mask)


def test_negative_control_padding_matters_to_a_plain_mean() -> None:
    x = torch.ones(1, 4, 2)
    x[0, 2:] = 5.0
    mask = torch.tensor([[1, 1, 0, 0]]).bool()
    masked = MeanToken().fit((4, 2), 0, sequence=(0,))(x, mask)
    assert masked.tolist() == [[1.0, 1.0]]
    assert math.isclose(float(x.mean()), 3.0)
