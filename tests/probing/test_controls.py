"""Controls: labels in random order, and the control task of Hewitt & Liang (2019)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import layerprobe
from layerprobe.probing.controls import by_type, type_keys
from layerprobe.probing.getters import Column, Item
from layerprobe.probing.protocol import ProbeProtocol

WORDS, L2 = 50, [1e-4, 1e-2]


def words(dimensions: int, n_test: int = 600) -> tuple[nn.Module, dict[str, tuple[Tensor, Tensor]]]:
    """Word types with a part of speech each, one in twenty tokens mislabelled; a table of random vectors."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Embedding(WORDS, dimensions))
    network[0].weight.data = torch.randn(WORDS, dimensions, generator=generator)
    tag = torch.randint(4, (WORDS,), generator=generator)
    data = {}
    for split, n in (("train", 1500), ("val", 400), ("test", n_test)):
        word = torch.randint(WORDS, (n,), generator=generator)
        noisy = torch.rand(n, generator=generator) < 0.05
        data[split] = word, torch.where(noisy, torch.randint(4, (n,), generator=generator), tag[word])
    return network, data


def test_a_head_that_can_memorise_the_types_has_no_selectivity() -> None:
    network, data = words(64)
    found = layerprobe.probe(network, data, layers="0", l2=L2, controls=["control_task", "shuffled"]).iloc[0]
    assert found["test_error"] < 0.08
    assert found["control_error"] < 0.02, "64 dimensions hold a label for each of 50 words"
    assert found["selectivity"] == found["control_error"] - found["test_error"]
    assert abs(found["selectivity"]) < 0.08
    assert found["shuffled_error"] > 0.65, "labels without order are chance, whatever is memorised"
    assert found["message"] == ""


def test_a_head_too_small_to_memorise_them_is_selective() -> None:
    """The negative control: in a few dimensions a property of the geometry is found, and a label for each word not."""
    network, data = words(6)
    tag = (network[0].weight.data[:, :2] > 0).long() @ torch.tensor([1, 2])
    data = {split: (word, tag[word]) for split, (word, _) in data.items()}
    found = layerprobe.probe(network, data, layers="0", l2=L2, controls=["control_task"]).iloc[0]
    assert found["test_error"] < 0.1
    assert found["selectivity"] > 0.3
    assert np.isnan(found["shuffled_error"])


def test_a_type_has_one_label_on_every_split_by_the_training_distribution() -> None:
    targets = torch.tensor([0] * 700 + [1] * 200 + [2] * 100)
    keys = type_keys(torch.arange(20_000))
    labels = by_type(targets, keys, seed=0)
    assert torch.equal(by_type(targets, keys.flip(0), seed=0).flip(0), labels)
    share = torch.bincount(labels) / len(labels)
    np.testing.assert_allclose(share, [0.7, 0.2, 0.1], atol=0.02)
    other = by_type(targets, keys, seed=1)
    assert abs(float((labels == other).double().mean()) - (0.49 + 0.04 + 0.01)) < 0.02, "independent of one another"


def test_equal_samples_are_of_one_type_whatever_their_padding_and_their_batch() -> None:

    def keys(inputs: Any, mask: Any = None) -> Tensor:
        return ProbeProtocol(mask=mask, inputs=Item(0)).keys_of((inputs, 0))

    ids = torch.tensor([[5, 6, 0, 0], [5, 6, 7, 0], [5, 6, 9, 9]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]])
    first = keys({"input_ids": ids, "attention_mask": mask})
    longer = {"input_ids": torch.tensor([[5, 6, 0, 0, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 0, 0, 0, 0]])}
    assert first[0] == first[2] == keys(longer)[0]
    assert len(first.unique()) == 2
    assert len(type_keys(ids).unique()) == 3, "the negative control: without the mask, padding counts"
    pairs = torch.tensor([[5, 6, 3], [5, 6, 4], [5, 6, 3]])
    both = {"input_ids": ids, "decoder_input_ids": pairs}
    with_masks = keys({**both, "attention_mask": mask, "decoder_attention_mask": torch.tensor([[1, 1, 0]] * 3)})
    assert with_masks[0] == with_masks[2] != with_masks[1], "each sequence by its own mask"
    assert keys({**both, "attention_mask": mask})[0] != keys({**both, "attention_mask": mask})[1]
    assert torch.equal(keys(ids, lambda _: mask), keys(ids[:, :3], lambda _: mask[:, :3])), "a mask that is a function"
    image = torch.randn(3, 2, 4, 4)
    assert torch.equal(type_keys(image[1:]), type_keys(image)[1:])
    assert torch.equal(type_keys(torch.zeros(2)), type_keys(-torch.zeros(2)))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.bool, torch.int64, "words", "array", "strings"])
def test_types_of_every_make(kind: Any) -> None:
    values: Any = torch.tensor([0, 1, 0, 1])
    if isinstance(kind, torch.dtype):
        values = values.to(kind)
    elif kind == "array":
        values = values.numpy()
    else:
        values = ["a", "b", "a", "b"] if kind == "words" else np.array(["a", "b", "a", "b"])
    keys = type_keys(values)
    assert keys[0] == keys[2] != keys[1] == keys[3]


def test_a_key_is_taken_out_of_the_batch() -> None:
    """The inputs are all different; a column of the data says which word each is of."""
    generator = torch.Generator().manual_seed(0)
    network, data = words(64)
    vectors = network[0].weight.data
    table = {
        split: [(vectors[word] + 0.01 * torch.randn(len(word), 64, generator=generator), torch.stack([tag, word], 1))]
        for split, (word, tag) in data.items()
    }
    options: dict[str, Any] = {"layers": "input", "l2": L2, "controls": ["control_task"], "targets": Column(0)}
    by_word = layerprobe.probe(nn.Identity(), table, **options, control_key=Column(1)).iloc[0]
    assert by_word["control_error"] < 0.02
    by_input = layerprobe.probe(nn.Identity(), table, **options).iloc[0]
    assert by_input["control_error"] > 0.5
    assert by_input["message"].startswith("selectivity: 0% of the test samples are of a type that train has")


def test_what_gives_no_key_for_each_sample_is_refused() -> None:
    network, data = words(6)
    batches = {split: [(word, tag, "all of one kind")] for split, (word, tag) in data.items()}
    options: dict[str, Any] = {"layers": "0", "l2": L2, "controls": ["control_task"]}
    options |= {"inputs": Item(0), "targets": Item(1)}
    with pytest.raises(TypeError, match=r"found a str. .*`control_key`"):
        layerprobe.probe(network, batches, **options, control_key=Item(2))
    with pytest.raises(ValueError, match="1500 targets and 2 keys"):
        layerprobe.probe(network, batches, **options, control_key=lambda batch: ["a", "b"])
    with pytest.raises(ValueError, match=r"Set controls=\[control_task\]"):
        ProbeProtocol(control_key=Item(2))


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_other_tasks_have_the_control_too(task: str) -> None:
    network, data = words(64)
    if task == "multi_label":
        data = {split: (word, torch.stack([tag % 2, tag // 2], 1)) for split, (word, tag) in data.items()}
        kind: Any = layerprobe.MultiLabel()
    else:
        data, kind = {split: (word, tag.double()) for split, (word, tag) in data.items()}, layerprobe.Regression()
    found = layerprobe.probe(network, data, layers="0", l2=[1e-4], controls=["control_task"], task=kind).iloc[0]
    assert found["control_error"] < 0.1
    assert found["selectivity"] == found["control_error"] - found["test_error"]
