from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, GPT2Config, GPT2Model

import layerprobe
from helpers.recorded import recorded
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.capture.survey import survey
from layerprobe.probing.capture.token_axes import attention_masks, sequence_axes, token_mask, token_masks
from layerprobe.probing.features.token_reducers import FirstToken, LastToken, MeanToken, TokenIndex

REDUCERS = (LastToken(), FirstToken(), MeanToken(), TokenIndex(1))
TEXTS = ("a cat", "the weather is fine today , is it not ?", "no", "colourless green ideas sleep furiously")
Batch = tuple[dict[str, Tensor], Tensor]


def features(network: nn.Module, batches: list[Batch]) -> dict[tuple[str, str], Tensor]:
    """Features of every layer and token reducer, found on the first batch and recorded on all of them."""
    inputs = batches[0][0]
    with freeze(network) as frozen:
        layers = survey(frozen, inputs).layers
        axes = sequence_axes(frozen, inputs, token_masks(inputs, attention_masks(inputs)), layers)
        reductions = {
            layer: list({r.description: r for r in (one.fit(layer.shape, 0, axes[layer]) for one in REDUCERS)}.values())
            for layer in layers
        }
        found, problems = recorded(frozen, batches, reductions)
    assert not problems
    return found


def found_axes(network: nn.Module, inputs: Any, masks: dict[str, Tensor]) -> dict[Layer, dict[int, str]]:
    with freeze(network) as frozen:
        return sequence_axes(frozen, inputs, masks, survey(frozen, inputs).layers)


def apart(batch: Batch) -> list[Batch]:
    """The samples of a batch one at a time, without padding."""
    inputs, targets = batch
    return [
        ({key: value[i : i + 1, held] for key, value in inputs.items()}, targets[i : i + 1])
        for i, held in enumerate(inputs["attention_mask"].bool())
    ]


def check(network: nn.Module, batch: Batch) -> None:
    together, one_by_one = features(network, [batch]), features(network, apart(batch)[1:2] + apart(batch)[:1])
    assert len({layer for layer, _ in together}) > 20
    for (layer, description), values in together.items():
        alone = one_by_one[layer, description]
        torch.testing.assert_close(values[[1, 0]], alone, rtol=1e-4, atol=1e-4, msg=f"{layer}: {description}")


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_padded_batch_of_gpt2_is_its_samples_one_at_a_time(side: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = GPT2Model(
            GPT2Config(
                n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=16, use_cache=False,
                bos_token_id=0, eos_token_id=0, initializer_range=0.3,
            )
        )  # fmt: skip
    lengths, t = (3, 9, 5), 9
    ids = torch.randint(1, 50, (3, t), generator=torch.Generator().manual_seed(1))
    place = torch.arange(t)
    mask = torch.stack([place < n if side == "right" else place >= t - n for n in lengths]).long()
    position = (mask.cumsum(1) - 1).clamp(min=0)  # what generation does for padding on the left
    check(network, ({"input_ids": ids, "attention_mask": mask, "position_ids": position}, torch.tensor([0, 1, 0])))


def test_a_padded_batch_of_a_pretrained_encoder_is_its_samples_one_at_a_time(shared: Path) -> None:
    folder = shared / "models" / "all-MiniLM-L6-v2"
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    inputs = dict(tokenizer(list(TEXTS), padding="longest", truncation=False, return_tensors="pt"))
    assert not inputs["attention_mask"].all(), "positive control: there is padding"
    check(network, (inputs, torch.tensor([0, 1, 0, 1])))


class Reader(nn.Module):
    """Token ids to a state for each token, a map of attention, a pooled output and scores."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(20, width), nn.Linear(width, width)
        self.attend, self.pool, self.score = nn.Softmax(dim=-1), nn.Tanh(), nn.Linear(width, 2)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.mix(self.embed(ids))
        held = attention_mask[:, None, :].bool()
        attention = self.attend((states @ states.mT).masked_fill(~held, -torch.inf))
        states = attention @ states
        weight = attention_mask[..., None].to(states.dtype)
        pooled = self.pool((states * weight).sum(1) / weight.sum(1))
        return self.score(pooled)


def reader(width: int = 6) -> Reader:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Reader(width)


def test_the_axes_of_every_kind_of_layer_are_found_even_where_sizes_coincide() -> None:
    ids, mask = torch.randint(20, (4, 6)), torch.ones(4, 6, dtype=torch.int64)
    network, inputs = reader(width=6), {"ids": ids, "attention_mask": mask}
    axes = {layer.name: axis for layer, axis in found_axes(network, inputs, {"attention_mask": mask}).items()}
    assert axes["embed"] == axes["mix"] == {0: "attention_mask"}, "the width is 6 too, but does not shrink"
    assert axes["attend"] == dict.fromkeys((0, 1), "attention_mask")
    assert axes["pool"] == axes["score"] == {}


def test_one_token_is_a_sequence_too() -> None:
    ids, mask = torch.randint(20, (4, 1)), torch.ones(4, 1, dtype=torch.int64)
    network, inputs = reader(), {"ids": ids, "attention_mask": mask}
    axes = {layer.name: axis for layer, axis in found_axes(network, inputs, {"attention_mask": mask}).items()}
    assert (axes["embed"], axes["pool"]) == ({0: "attention_mask"}, {})


def test_a_network_of_one_length_is_told_by_size() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.across, self.along = nn.Linear(5, 5), nn.Linear(3, 4)

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            return self.along(self.across(x.mT).mT)

    inputs = {"x": torch.randn(2, 5, 3), "attention_mask": torch.ones(2, 5)}
    masks = token_masks(inputs, inputs["attention_mask"])
    axes = {layer.name: tuple(axis) for layer, axis in found_axes(Fixed(), inputs, masks).items()}
    assert axes["along"] == (0,)
    assert axes["across"] == (1,)


def test_without_a_mask_a_layer_of_two_axes_is_tokens_by_features() -> None:
    network, x = nn.Sequential(nn.Linear(3, 4), nn.Flatten()), torch.randn(2, 5, 3)
    axes = {layer.name: axis for layer, axis in found_axes(network, x, {}).items()}
    assert axes == {"input": {0: ""}, "0": {0: ""}}


def texts(n: int, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """Sequences whose class says whether token 7 is in them."""
    length = torch.randint(3, 9, (n,), generator=generator)
    mask = (torch.arange(9) < length[:, None]).long()
    ids = torch.randint(8, 20, (n, 9), generator=generator)
    targets = torch.randint(2, (n,), generator=generator)
    ids[targets == 1, 1] = 7
    return {"ids": ids * mask, "attention_mask": mask}, targets


def test_token_ids_are_probed_through_every_door() -> None:
    generator = torch.Generator().manual_seed(0)
    data = {split: texts(200, generator) for split in ("train", "val", "test")}
    results = layerprobe.probe(reader(), data, reducer=[MeanToken(), LastToken()], l2=[1e-3], batch_size=32)
    assert results["depth"].min() == 1, "token ids are categories, no layer"
    assert results["status"].eq("converged").all()
    frame = results.set_index("layer")
    assert frame.loc["embed", "reduction"].startswith("mean token of Tx6")
    assert frame.loc["embed", "test_error"] < 0.2, "positive control"

    renamed: dict[str, Any] = {
        split: (({"ids": x["ids"]} | {"attention_mask": x["attention_mask"]}), y) for split, (x, y) in data.items()
    }
    again = layerprobe.probe(
        reader(), renamed, reducer=[MeanToken(), LastToken()], l2=[1e-3], mask=lambda batch: batch[0]["ids"] != 0
    )
    assert again["test_error"].tolist() == pytest.approx(results["test_error"].tolist(), abs=0.011)


def test_batches_of_other_lengths_need_a_token_reducer() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = texts(60, generator)

    def cut(rows: slice, width: int) -> Batch:
        return {"ids": inputs["ids"][rows, :width], "attention_mask": inputs["attention_mask"][rows, :width]}, targets[
            rows
        ]

    batches = [cut(slice(0, 30), 6), cut(slice(30, 60), 9)]
    data = {"train": batches, "val": batches, "test": batches}
    by_token = layerprobe.probe(reader(), data, reducer=LastToken(), l2=[1e-2], layers=["embed", "pool"])
    assert by_token["status"].eq("converged").all()
    whole = layerprobe.probe(reader(), data, l2=[1e-2], layers=["embed", "pool"]).set_index("layer")
    assert whole.loc["pool", "status"] == "converged"
    assert whole.loc["embed", "status"] == "failed"
    assert "9x6 in a batch of the train split, 6x6 before" in whole.loc["embed", "message"]
    assert "reducer=last_token" in whole.loc["embed", "message"]


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(3), TypeError, r"mask of \(samples, tokens\), found shape \(3,\)"),
        ([1, 1], TypeError, "found a list"),
        (torch.tensor([[1, 0], [0, 0]]), ValueError, "Sample 1 of a batch has no token"),
    ],
)
def test_a_mask_that_cannot_be(mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        token_mask(mask)


def test_the_mean_of_padded_states_is_not_the_masked_mean() -> None:
    states = F.one_hot(torch.tensor([[0, 1, 1]]), 2).float()
    mask = torch.tensor([[True, False, False]])
    assert MeanToken().fit((3, 2), 0, sequence=(0,))(states, mask).tolist() == [[1.0, 0.0]]
