"""Networks with an encoder and a decoder: each layer's tokens are told by its own mask, or it has no features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BartConfig, BartModel, T5Config, T5ForConditionalGeneration, T5Model

from helpers.cases import one_thread  # noqa: F401
from helpers.recorded import recorded
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.discovery import discover_layers
from layerprobe.probing.features.token_reducers import LastToken, MeanToken
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources


@cache
def t5(kind: type[nn.Module] = T5Model) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=30, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0,
            initializer_factor=3.0,
        )  # fmt: skip
        return kind(config).eval()


@cache
def bart() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BartConfig(
            vocab_size=30, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=16,
            init_std=0.3,
        )  # fmt: skip
        return BartModel(config).eval()


def side_of(lengths: tuple[int, ...], t: int, side: str) -> Tensor:
    place = torch.arange(t)
    return torch.stack([place < n if side == "right" else place >= t - n for n in lengths]).long()


def batch(encoder: int, decoder: int, side: str = "right") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(3, 30, (3, encoder), generator=generator),
        "attention_mask": side_of((encoder, encoder - 3, encoder - 1), encoder, side),
        "decoder_input_ids": torch.randint(3, 30, (3, decoder), generator=generator),
        "decoder_attention_mask": side_of((decoder - 1, decoder, decoder - 2), decoder, side),
    }


def probed(
    network: nn.Module, inputs: Any, mask: Callable[[Any], Any] | None = None
) -> tuple[dict[tuple[str, str], Tensor], dict[str, str]]:
    """Features by layer and reducer, and the layers that have none with the reason."""
    y = torch.tensor([0, 1, 0])
    protocol = ProbeProtocol(reducers=(LastToken(), MeanToken()), mask=mask)
    with freeze(network) as frozen:
        ways = discover_layers(frozen, {"train": [(inputs, y)]}, protocol, Resources()).ways
        reductions = {layer: [way.reduction for way in of] for layer, of in ways.items()}
        features, problems = recorded(frozen, [(inputs, y)], reductions, protocol)
    found = {(layer, made.split(" of ")[0].split()[0]): values for (layer, made), values in features.items()}
    return found, problems


def outputs_of(network: nn.Module, inputs: Mapping[str, Tensor], paths: list[str]) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        return lambda module, args, out: kept.__setitem__(path, (out if isinstance(out, Tensor) else out[0]).clone())

    modules = dict(network.named_modules())
    handles = [modules[path].register_forward_hook(keep(path)) for path in paths]
    with torch.no_grad():
        network(**inputs)
    for handle in handles:
        handle.remove()
    return kept


NETWORKS = {
    "t5": (
        t5,
        ["encoder.block.0.layer.1", "encoder.final_layer_norm", "decoder.block.0.layer.2", "decoder.final_layer_norm"],
        "decoder.block.1.layer.1.EncDecAttention.k",
    ),
    "bart": (
        bart,
        [f"{part}.layers.{index}.final_layer_norm" for part in ("encoder", "decoder") for index in range(2)],
        "decoder.layers.1.encoder_attn.k_proj",
    ),
}
"""How to build each, some of its layers, and one of the decoder that runs over the encoder's tokens."""

OF_ENCODER = ("EncDecAttention.k", "EncDecAttention.v", "encoder_attn.k_proj", "encoder_attn.v_proj")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("lengths", [(9, 6), (7, 7)], ids=["different", "equal"])
def test_each_layer_has_the_mask_of_its_own_tokens(name: str, side: str, lengths: tuple[int, int]) -> None:
    build, paths, across = NETWORKS[name]
    inputs = batch(*lengths, side)
    found, problems = probed(build(), inputs)
    assert not problems
    for path, output in outputs_of(build(), inputs, [*paths, across]).items():
        of_decoder = path.startswith("decoder") and path != across
        mask = inputs["decoder_attention_mask" if of_decoder else "attention_mask"]
        tokens = [[output[i, j] for j in range(mask.shape[1]) if mask[i, j]] for i in range(3)]
        last, mean = (
            torch.stack([take(row) for row in tokens]) for take in (lambda r: r[-1], lambda r: sum(r) / len(r))
        )
        torch.testing.assert_close(found[path, "last"], last, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[path, "mean"], mean, rtol=1e-4, atol=1e-5)
        if lengths[0] == lengths[1]:
            other = inputs["attention_mask" if of_decoder else "decoder_attention_mask"]
            wrong = torch.stack([row[held.bool()].mean(0) for row, held in zip(output, other, strict=True)])
            assert not torch.allclose(mean, wrong, atol=1e-3), "negative control: the other mask says something else"


def refused(problems: Mapping[str, str]) -> None:
    """Layers of the decoder are refused, those of the encoder are not."""
    assert any(name.startswith("decoder.") for name in problems)
    assert not any(name.startswith("encoder.") for name in problems), problems
    assert all("no mask says which of its tokens are padding" in message for message in problems.values())


def assert_decoder_refused(network: nn.Module, inputs: Any, mask: Callable[[Any], Any] | None = None) -> None:
    found, problems = probed(network, inputs, mask)
    refused(problems)
    assert not [name for name, _ in found if name.startswith("decoder.") and not name.endswith(OF_ENCODER)]
    assert any(name.startswith("encoder.") for name, _ in found)


@pytest.mark.parametrize("lengths", [(9, 6), (7, 7)], ids=["different", "equal"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_decoder_without_a_mask_is_refused(name: str, lengths: tuple[int, int]) -> None:
    inputs = batch(*lengths)
    del inputs["decoder_attention_mask"]
    assert_decoder_refused(NETWORKS[name][0](), inputs)


@pytest.mark.parametrize("lengths", [(9, 6), (7, 7)], ids=["different", "equal"])
def test_decoder_inputs_made_of_labels_need_a_mask(lengths: tuple[int, int]) -> None:
    inputs = batch(*lengths)
    inputs["labels"] = inputs.pop("decoder_input_ids")
    mask = inputs.pop("decoder_attention_mask")
    assert_decoder_refused(t5(T5ForConditionalGeneration), inputs)
    found, problems = probed(t5(T5ForConditionalGeneration), inputs | {"decoder_attention_mask": mask})
    assert not problems
    assert any(name.startswith("decoder.") for name, _ in found)


def test_a_decoder_that_makes_its_inputs_of_the_encoder_s_is_refused() -> None:
    inputs = batch(7, 7)
    found, problems = probed(bart(), {key: inputs[key] for key in ("input_ids", "attention_mask")})
    refused({name: message for name, message in problems.items() if not name.startswith("shared")})
    assert not any(name.startswith("decoder.") for name, _ in found)


def test_one_token_for_a_decoder_needs_no_mask() -> None:
    inputs = batch(7, 4)
    inputs["decoder_input_ids"] = inputs["decoder_input_ids"][:, :1]
    del inputs["decoder_attention_mask"]
    found, problems = probed(t5(), inputs)
    assert not problems
    layer = "decoder.final_layer_norm"
    output = outputs_of(t5(), inputs, [layer])[layer]
    torch.testing.assert_close(found[layer, "last"], output[:, 0], rtol=1e-4, atol=1e-5)


class Pair(nn.Module):
    """Two sequences under names of its own, mixed at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(30, 5), nn.Embedding(30, 5)
        self.encoder, self.decoder = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        return (self.decoder(self.target(tgt)) @ self.encoder(self.source(src)).mT).exp()


@pytest.mark.parametrize("lengths", [(9, 6), (7, 7)], ids=["different", "equal"])
def test_masks_of_several_sequences_are_given_by_the_names_of_their_inputs(lengths: tuple[int, int]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Pair()
    given = batch(*lengths)
    inputs = {"src": given["input_ids"], "tgt": given["decoder_input_ids"]}
    masks = {"src": given["attention_mask"], "tgt": given["decoder_attention_mask"]}
    found, problems = probed(network, inputs, lambda batch: masks)
    assert not problems
    for name, ids, layer in (("src", "source", network.source), ("tgt", "target", network.target)):
        last = [int(row.nonzero().max()) for row in masks[name]]
        torch.testing.assert_close(found[ids, "last"], layer(inputs[name][range(3), last]).detach())
    scores = network(**inputs).detach()
    held = masks["tgt"][:, :, None] * masks["src"][:, None, :]
    mean = ((scores * held).sum((1, 2)) / held.sum((1, 2)))[:, None]
    torch.testing.assert_close(found["exp", "mean"], mean, msg="both masks, each along its own axis")

    found, problems = probed(network, inputs, lambda batch: masks["src"])
    assert {"target", "decoder"} <= problems.keys(), "one mask for two sequences: never the wrong one"
    assert not any(name in ("target", "decoder", "exp") for name, _ in found)


class ClassToken(nn.Module):
    """Puts a token of its own in front of the text, which attends to it and to what is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.own = nn.Embedding(30, 8), nn.Parameter(torch.ones(8))
        self.whole, self.mix, self.score = nn.Identity(), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = self.embed(input_ids)
        states = self.whole(torch.cat([self.own.expand(len(tokens), 1, -1), tokens], dim=1))
        held = nn.functional.pad(attention_mask, (1, 0), value=1).to(states.dtype)[..., None]
        return self.score(self.mix(states * held).sum(1))


def test_tokens_that_the_network_adds_need_a_mask_of_as_many() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ClassToken().eval()
    inputs = {name: tensor for name, tensor in batch(7, 1).items() if not name.startswith("decoder")}
    features, problems = probed(network, inputs)
    assert {layer for layer, _ in features} == {"embed", "score"}
    assert set(problems) == {"whole", "mix"}
    for problem in problems.values():
        assert "more or fewer than those of attention_mask" in problem
        assert "Give their mask too: mask=lambda batch" in problem

    longer = nn.functional.pad(inputs["attention_mask"], (1, 0), value=1)
    masks = {"attention_mask": inputs["attention_mask"], "longer": longer}
    features, problems = probed(network, inputs, lambda batch: masks)
    assert not problems
    kept = outputs_of(network, inputs, ["embed", "whole", "mix"])
    for layer, mask in (("embed", masks["attention_mask"]), ("whole", longer), ("mix", longer)):
        last = mask.cumsum(1).argmax(1)
        assert torch.equal(features[layer, "last"], kept[layer][torch.arange(3), last])
        mean = (kept[layer] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(features[layer, "mean"], mean)

    features, problems = probed(network, inputs, lambda batch: longer)
    assert set(problems) == {"embed"}, "the mask is of other tokens than the embedding's"
    assert torch.equal(features["mix", "last"], kept["mix"][torch.arange(3), longer.cumsum(1).argmax(1)])
