"""Sites of the blocks of tiny transformers, against hooks that are written by hand for each architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2Model,
    GPT2Config,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXModel,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2Model,
    ViTConfig,
    ViTModel,
)

import layerprobe

D, HEADS, DEPTH = 8, 2, 2
IDS = {"input_ids": torch.randint(30, (4, 6), generator=torch.Generator().manual_seed(0))}
IMAGES = {"pixel_values": torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
SIZES = {"hidden_size": D, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": 12}
TEXT = SIZES | {"vocab_size": 30, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = TEXT | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2}
GPT2 = GPT2Config(n_embd=D, n_layer=DEPTH, n_head=HEADS, vocab_size=30, n_positions=16)


@dataclass
class Case:
    """An architecture.

    Attributes:
        build: Builds a tiny network.
        inputs: What it is called with.
        blocks: Where its blocks are.
        sites: By site, the module inside a block, and whether it is what that is given or what it returns.
        heads: How many.
    """

    build: Callable[[], nn.Module]
    inputs: dict[str, Tensor]
    blocks: str
    sites: dict[str, tuple[str, str]]
    heads: int = HEADS


def pre_norm(first: str, projection: str, second: str, down: str) -> dict[str, tuple[str, str]]:
    """The residual stream is not normalised; what attention and MLP read is."""
    return {
        "resid_pre": ("", "given"), "resid_pre_normalised": (first, "returned"),
        "attn_out": (projection, "returned"), "heads": (projection, "given"),
        "resid_mid": (second, "given"), "resid_mid_normalised": (second, "returned"),
        "mlp_out": (down, "returned"), "resid_post": ("", "returned"),
    }  # fmt: skip


LLAMA = pre_norm("input_layernorm", "self_attn.o_proj", "post_attention_layernorm", "mlp.down_proj")
GEMMA = pre_norm("input_layernorm", "self_attn.o_proj", "pre_feedforward_layernorm", "mlp.down_proj")
NEOX = pre_norm("input_layernorm", "attention.dense", "post_attention_layernorm", "mlp.dense_4h_to_h")
PARALLEL = {name: place for name, place in NEOX.items() if not name.startswith("resid_mid")}
BERT = {
    "resid_pre": ("", "given"),
    "attn_out": ("attention.output.dense", "returned"), "heads": ("attention.output.dense", "given"),
    "resid_mid": ("attention.output.LayerNorm", "given"),
    "resid_mid_normalised": ("attention.output.LayerNorm", "returned"),
    "mlp_out": ("output.dense", "returned"),
    "resid_post": ("output.LayerNorm", "given"), "resid_post_normalised": ("output.LayerNorm", "returned"),
}  # fmt: skip


def neox(parallel: bool) -> Callable[[], nn.Module]:
    return lambda: GPTNeoXModel(GPTNeoXConfig(**TEXT, use_parallel_residual=parallel))


def eager() -> nn.Module:
    return GPT2Model._from_config(GPT2, attn_implementation="eager")


CASES = {
    "gpt2": Case(lambda: GPT2Model(GPT2), IDS, "h", pre_norm("ln_1", "attn.c_proj", "ln_2", "mlp.c_proj")),
    "gpt2 without sdpa": Case(eager, IDS, "h", pre_norm("ln_1", "attn.c_proj", "ln_2", "mlp.c_proj")),
    "gpt_neox": Case(neox(True), IDS, "layers", PARALLEL),
    "gpt_neox, not parallel": Case(neox(False), IDS, "layers", NEOX),
    "llama": Case(lambda: LlamaModel(LlamaConfig(**GROUPED)), IDS, "layers", LLAMA, heads=4),
    "qwen2": Case(lambda: Qwen2Model(Qwen2Config(**GROUPED)), IDS, "layers", LLAMA, heads=4),
    "gemma2": Case(lambda: Gemma2Model(Gemma2Config(**GROUPED)), IDS, "layers", GEMMA, heads=4),
    "bert": Case(lambda: BertModel(BertConfig(**TEXT)), IDS, "encoder.layer", BERT),
    "vit": Case(
        lambda: ViTModel(ViTConfig(**SIZES, image_size=16, patch_size=8)),
        IMAGES, "layers", pre_norm("layernorm_before", "attention.o_proj", "layernorm_after", "mlp.fc2"),
    ),
    "vit of timm": Case(
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=D, depth=DEPTH,
                                  num_heads=HEADS),
        {"x": IMAGES["pixel_values"]}, "blocks", pre_norm("norm1", "attn.proj", "norm2", "mlp.fc2"),
    ),
}  # fmt: skip


def by_hand(case: Case, network: nn.Module) -> dict[str, Tensor]:
    """Every site by forward hooks on the modules that the architecture has."""
    found: dict[str, Tensor] = {}
    hooks = []
    for i in range(DEPTH):
        block = f"{case.blocks}.{i}"
        for site, (module, side) in case.sites.items():

            def note(
                _: nn.Module, args: Any, kwargs: Any, output: Any, site: str = f"{block}.{site}", side: str = side
            ) -> None:
                value = (args[0] if args else kwargs["hidden_states"]) if side == "given" else output
                found[site] = (value[0] if isinstance(value, tuple) else value).clone()

            target = network.get_submodule(f"{block}.{module}".rstrip("."))
            hooks.append(target.register_forward_hook(note, with_kwargs=True))
    with torch.no_grad():
        network(**case.inputs)
    for hook in hooks:
        hook.remove()
    for i in range(DEPTH):
        for k, head in enumerate(found.pop(f"{case.blocks}.{i}.heads").chunk(case.heads, dim=-1)):
            found[f"{case.blocks}.{i}.head.{k}"] = head
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_sites_are_those_of_hooks_written_by_hand(name: str) -> None:
    case = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = case.build().eval()
        for parameter in network.parameters():  # else biases are 0 and norms are none
            nn.init.normal_(parameter, std=0.4)
    wanted = by_hand(case, network)
    recorded = layerprobe.activations(network, case.inputs, granularity="sites")
    sites = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "_normalised")
    found = {name for name in recorded if name.startswith(case.blocks) and (".head." in name or name.endswith(sites))}
    assert found == wanted.keys()
    for site, value in wanted.items():
        torch.testing.assert_close(recorded[site], value, msg=lambda text, site=site: f"{site}: {text}")
    values = {site: recorded[site] for site, value in wanted.items() if ".0." in site and value.shape[-1] == D}
    assert len({round(float(value.double().sum()), 6) for value in values.values()}) == len(values), "all different"


def torch_attention(case: str) -> tuple[nn.Module, Tensor, list[nn.Module], str, str, dict[str, str]]:
    """A network of torch's own attention, its blocks and their path, and by site the module that returns it.

    With a slash behind it, it is what the module is given.
    """
    pre = {
        "resid_pre_normalised": "norm1",
        "resid_mid": "norm2/",
        "resid_mid_normalised": "norm2",
        "mlp_out": "linear2",
    }
    post = {"resid_mid": "norm1/", "resid_mid_normalised": "norm1", "mlp_out": "linear2", "resid_post": "norm2/"}
    vit = {"resid_pre_normalised": "ln_1", "resid_mid": "ln_2/", "resid_mid_normalised": "ln_2", "mlp_out": "mlp.3"}
    if case == "vit of torchvision":
        network: nn.Module = VisionTransformer(16, 8, DEPTH, HEADS, D, 12)
        blocks = network.get_submodule("encoder.layers")
        return network, IMAGES["pixel_values"], list(blocks), "encoder.layers.encoder_layer_", "self_attention", vit
    layer = nn.TransformerEncoderLayer(D, HEADS, 12, batch_first=True, norm_first=case == "norm first")
    network = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
    sites = pre if case == "norm first" else post
    return network, torch.rand(4, 6, D), list(network.layers), "layers.", "self_attn", sites


@pytest.mark.parametrize("case", ["vit of torchvision", "norm first", "norm last"])
def test_attention_of_torch_is_split_into_its_heads(case: str) -> None:
    """Its output projection is no call of a module, and the heads are what it computes from the weights by hand."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, inputs, blocks, path, attention, sites = torch_attention(case)
        network.eval()
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.4)
    operations = layerprobe.activations(network, inputs, granularity="ops")
    recorded = layerprobe.activations(network, inputs, granularity="sites")
    assert not any(name.endswith(f"{attention}.heads") for name in operations), "a layer of sites alone"
    seen: dict[str, Tensor] = {}
    for i, block in enumerate(blocks):
        for site, module in sites.items():

            def note(
                _: nn.Module, args: Any, output: Tensor, site: str = f"{path}{i}.{site}", given: bool = "/" in module
            ) -> None:
                seen[site] = (args[0] if given else output).clone()

            block.get_submodule(module.rstrip("/")).register_forward_hook(note)

        def note_attention(module: nn.Module, args: Any, output: Any, i: int = i) -> None:
            seen[f"{path}{i}.attn_out"] = output[0].clone()
            q, k, v = nn.functional.linear(args[0], module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
            for head, (a, b, c) in enumerate(zip(*(part.chunk(HEADS, -1) for part in (q, k, v)), strict=True)):
                mixed = (a @ b.transpose(1, 2) / (D // HEADS) ** 0.5).softmax(-1) @ c
                seen[f"{path}{i}.head.{head}"] = mixed

        block.get_submodule(attention).register_forward_hook(note_attention)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    for site, value in seen.items():
        torch.testing.assert_close(recorded[site], value, msg=lambda text, site=site: f"{site}: {text}")
    assert {name for name in recorded if ".head." in name} == {name for name in seen if ".head." in name}


def test_a_block_that_calls_torch_s_attention_itself_has_its_output() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.norm = HEADS, nn.LayerNorm(D)
            self.qkv, self.bias = nn.Parameter(torch.randn(3 * D, D)), nn.Parameter(torch.randn(3 * D))
            self.out, self.mlp = nn.Linear(D, D), nn.Sequential(nn.Linear(D, 12), nn.GELU(), nn.Linear(12, D))

        def attention(self, x: Tensor) -> Tensor:
            found, _ = nn.functional.multi_head_attention_forward(
                x, x, x, D, HEADS, self.qkv, self.bias, None, None, False, 0.0, self.out.weight, self.out.bias
            )
            return found

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attention(self.norm(x))
            return x + self.mlp(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])

        def forward(self, x: Tensor) -> Tensor:
            x = x.transpose(0, 1)
            for block in self.blocks:
                x = block(x)
            return x.transpose(0, 1)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, x = Net().eval(), torch.rand(4, 6, D)
    found = layerprobe.activations(network, x, granularity="sites")
    block, given = network.blocks[0], x.transpose(0, 1)
    with torch.no_grad():
        attention = block.attention(block.norm(given))
        middle = given + attention
        wanted = {"attn_out": attention, "resid_mid": middle, "mlp_out": block.mlp(middle), "resid_post": block(given)}
    for site, value in wanted.items():
        torch.testing.assert_close(found[f"blocks.0.{site}"], value.transpose(0, 1), msg=site)
    assert found["blocks.0.head.1"].shape == (4, 6, D // HEADS)


def test_a_linear_map_that_returns_something_else_is_no_projection() -> None:
    class Gate(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).sum(-1, keepdim=True).expand(*x.shape[:-1], 5)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.out = Gate(D, D), nn.Linear(D, D)

        def forward(self, x: Tensor) -> Tensor:
            q = x.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            mixed = nn.functional.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)
            return x + self.gate(mixed).mean(-1, keepdim=True) * self.out(mixed)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, x = nn.Sequential(Block()).eval(), torch.rand(4, 6, D)
    found = layerprobe.activations(network, x, granularity="sites")
    seen = layerprobe.activations(network, x, "0.out")
    torch.testing.assert_close(found["0.attn_out"], seen["0.out"])


def test_a_network_without_attention_says_so() -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    with pytest.raises(ValueError, match=r"no sites: no member of a ModuleList.*granularity='blocks'"):
        layerprobe.layers(network, torch.rand(4, 3), granularity="sites")


def test_each_head_is_probed_by_itself_and_kept(tmp_path: Path) -> None:
    case = CASES["gpt2"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = case.build().eval()
    ids = torch.randint(30, (60, 6), generator=torch.Generator().manual_seed(1))
    inputs, targets = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.arange(60) % 2
    wanted = ["h.0.head.?", "h.1.resid_mid", "h.1.resid_post"]
    options = {"layers": wanted, "granularity": "sites", "reducer": "last_token", "l2": 0.1, "progress": False}
    found = layerprobe.probe(network, (inputs, targets), **options, keep=tmp_path)
    again = layerprobe.probe(network, (inputs, targets), **options, keep=tmp_path)
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), again.drop(columns="seconds"))
    assert found["layer"].tolist() == ["h.0.head.0", "h.0.head.1", "h.1.resid_mid", "h.1.resid_post"]
    assert found["n_features"].tolist() == [D // HEADS, D // HEADS, D, D]
    assert set(found["status"]) == {"converged"}
    recorded = layerprobe.activations(network, inputs, wanted, granularity="sites")
    for layer in ("h.0.head.1", "h.1.resid_mid"):
        alone = layerprobe.probe(nn.Identity(), (recorded[layer][:, -1], targets), l2=0.1, progress=False)
        own = found.set_index("layer").loc[layer]
        assert own["test_error"] == alone["test_error"][0]
        assert own["test_loss"] == pytest.approx(alone["test_loss"][0], rel=1e-4)
