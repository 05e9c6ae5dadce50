from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from layerprobe.probing.controls import type_keys
from layerprobe.probing.getters import Column, Item, Items, Lookup, Parity, Tokens

IMAGES, DIGITS, TABLE = torch.randn(4, 3), torch.tensor([3, 0, 8, 5]), torch.arange(12).view(4, 3)
BATCH = (IMAGES, DIGITS, {"meta": TABLE, "lengths": [1, 2, 3, 4]})


def test_items_of_nested_batches() -> None:
    assert Item(0)(BATCH) is IMAGES
    assert Item("2.meta")(BATCH) is TABLE
    assert Items(["0", "2.meta"])(BATCH) == (IMAGES, TABLE)
    assert Items({"x": 0, "table": "2.meta"})(BATCH) == {"x": IMAGES, "table": TABLE}
    assert Item(".")(BATCH) is BATCH
    assert Items(["."])(BATCH) == (BATCH,)


def test_properties_made_of_targets() -> None:
    assert Parity()(BATCH).tolist() == [1, 0, 0, 1]
    assert Column(1, "2.meta")(BATCH).tolist() == [1, 4, 7, 10]
    assert Column([2, 0], "2.meta")(BATCH).tolist() == [[2, 0], [5, 3], [8, 6], [11, 9]]
    assert Lookup(list(range(0, 20, 2)))(BATCH).tolist() == [6, 0, 16, 10]
    assert Lookup([0.5] * 10)(BATCH).dtype == torch.float32
    assert Lookup([[digit % 2, digit > 4] for digit in range(10)])(BATCH).tolist() == [[1, 0], [0, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("take", "message"),
    [
        (Item("2.metta"), "The batch has no item '2.metta', found the keys meta, lengths in place of 'metta'"),
        (Item(3), "found 3 items in place of '3'"),
        (Item("0.a"), "found a Tensor in place of 'a'"),
        (Column(3, "2.meta"), "Item '2.meta' of the batch has no column 3, found shape (4, 3)"),
        (Column(0), "found shape (4,)"),
        (Lookup([0, 1, 0]), "has 3 entries, found the class 8"),
    ],
)
def test_what_is_not_there(take: Item | Column | Lookup, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        take(BATCH)


def test_an_attribute_of_a_batch_is_taken_by_its_name() -> None:
    batch = SimpleNamespace(image=torch.zeros(2, 3), labels=SimpleNamespace(parity=torch.tensor([0, 1])))
    assert Item("image")(batch) is batch.image
    assert Item("labels.parity")((batch, batch)[0]) is batch.labels.parity
    with pytest.raises(ValueError, match="found a SimpleNamespace in place of 'target'"):
        Item("target")(batch)


def test_tokens_are_counted_without_padding_on_either_side() -> None:
    ids = torch.tensor([[101, 7, 8, 102, 0, 0], [0, 101, 9, 5, 8, 102]])
    batch = ({"input_ids": ids, "attention_mask": (ids > 0).long()}, torch.zeros(2))
    assert Tokens()(batch) == ["102", "102"]
    assert Tokens(-2, -1)(batch) == ["8", "8"]
    assert Tokens(-3, -1)(batch) == ["7 8", "5 8"]
    keys = type_keys(Tokens(-2, -1)(batch))
    assert keys[0] == keys[1]
    assert Tokens(path="x")({"x": {"input_ids": ids}}) == ["0", "102"]
    with pytest.raises(ValueError, match="no `input_ids`, found a Tensor"):
        Tokens(path=1)(batch)
